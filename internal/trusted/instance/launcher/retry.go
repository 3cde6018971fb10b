package launcher

import (
	"context"
	"errors"
	"time"

	"cupel.dev/cupel/api/problem"
)

const (
	firstPause = 200 * time.Millisecond
	longPause  = 5 * time.Second
)

// retry calls f until it succeeds, fails for another reason than that
// something can't be reached just now, or limit has passed; then it returns f's
// last error, or the one before where the limit alone cut the last try. Pauses double
// from firstPause to longPause. Each failure that is tried again goes to note, with
// its number.
func retry(ctx context.Context, limit time.Duration, note func(n int, err error), f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	pause := firstPause
	var before error
	for n := 1; ; n++ {
		err := f(ctx)
		if err != nil && before != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && problem.KindOf(err) == problem.Unavailable {
			return before
		}

		before = err
		if err == nil || problem.KindOf(err) != problem.Unavailable {
			return err
		}

		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause {
			return err
		}

		note(n, err)
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return context.Canceled
			}
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, longPause)
	}
}
