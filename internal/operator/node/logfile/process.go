package logfile

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Verb is the first argument of the writer process: cupel-log's only one.
const Verb = "log-writer"

// URI returns where a shim sends an instance's output: it starts program with
// the arguments Verb and one that Main understands. (The shim turns each query
// parameter into arguments, in any order, so there is exactly one.)
func URI(program, dir string, limits Limits) string {
	u := url.URL{Scheme: "binary", Path: program, RawQuery: url.Values{Verb: {argument(dir, limits)}}.Encode()}
	return u.String()
}

// argument is the one argument of the writer process, which parseArg reads.
func argument(dir string, limits Limits) string {
	return fmt.Sprintf("%d:%d:%s", limits.Size, limits.Keep, dir)
}

func parseArg(arg string) (dir string, limits Limits, err error) {
	parts := strings.SplitN(arg, ":", 3)
	if len(parts) == 3 {
		var err1, err2 error
		limits.Size, err1 = strconv.ParseInt(parts[0], 10, 64)
		limits.Keep, err2 = strconv.Atoi(parts[1])
		if err1 == nil && err2 == nil {
			return parts[2], limits, nil
		}
	}
	return "", limits, fmt.Errorf("log writer: argument %q: want SIZE:KEEP:FOLDER", arg)
}

// Main is the writer process. The shim, or Resume, hands over stdout (3), stderr (4) and a
// pipe (5) that we close when we are ready. It ends when both streams have.
func Main(arg string) error {
	dir, limits, err := parseArg(arg)
	if err != nil {
		return err
	}

	// A shim that ends tells us to end too, but what is still in the pipes has
	// to be written first: only their end is ours.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	lock, err := lockFolder(dir)
	if errors.Is(err, errLocked) {
		return err
	}

	// A folder that can't be locked is no reason to leave the output where it is: its
	// instance would wait for it.
	unlocked := err
	if lock != nil {
		defer lock.Close()
	}

	w, err := NewWriter(dir, limits, time.Now)
	if err != nil {
		return err
	}

	stdout := os.NewFile(3, "stdout")
	stderr := os.NewFile(4, "stderr")
	ready := os.NewFile(5, "ready")
	if stdout == nil || stderr == nil || ready == nil {
		return errors.New("log writer: started without the instance's output")
	}
	if err := ready.Close(); err != nil {
		return fmt.Errorf("log writer: say ready: %w", err)
	}

	var wg sync.WaitGroup
	var errs [2]error
	wg.Go(func() { errs[0] = w.Copy(Stdout, stdout) })
	wg.Go(func() { errs[1] = w.Copy(Stderr, stderr) })
	wg.Wait()

	return errors.Join(unlocked, errs[0], errs[1], w.Close())
}
