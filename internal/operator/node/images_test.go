package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// fakeImages are here once they were brought, which takes a while.
type fakeImages struct {
	mu   sync.Mutex
	here map[ident.ImageRef]bool
	now  int // how many are brought right now
	most int
}

func (f *fakeImages) Find(_ context.Context, ref ident.ImageRef) (Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.here[ref] {
		return Image{}, problem.New(problem.NotFound, "image_missing", "image %s is not here", ref)
	}
	return Image{}, nil
}

func (f *fakeImages) Ensure(ctx context.Context, ref ident.ImageRef) (Image, error) {
	f.mu.Lock()
	f.now++
	f.most = max(f.most, f.now)
	f.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(fetchLimit * 2 / 3):
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now--
	f.here[ref] = ctx.Err() == nil
	return Image{}, ctx.Err()
}

// TestImagesWaitForTheirTurn: images are brought one after the other, each has its time
// from when it is its turn on, and what waits lets itself be called off.
func TestImagesWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := testNode(t)
		fake := &fakeImages{here: map[ident.ImageRef]bool{"here": true}}
		images := newBoundedImages(fake, n.Node)
		var all sync.WaitGroup
		for _, ref := range []ident.ImageRef{"a", "b", "c"} {
			all.Go(func() {
				if _, err := images.Ensure(t.Context(), ref); err != nil {
					t.Errorf("%s: %v", ref, err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if _, err := images.Ensure(t.Context(), "here"); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := images.Ensure(ctx, "d"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Minute {
			t.Errorf("called off after a minute: %v, %s", err, time.Since(began))
		}

		all.Wait()
		if fake.most != 1 || len(fake.here) != 4 {
			t.Errorf("%d at once, %v here", fake.most, fake.here)
		}
		if told := n.tells(); len(told) > 0 {
			t.Errorf("told %q", told)
		}
	})
}
