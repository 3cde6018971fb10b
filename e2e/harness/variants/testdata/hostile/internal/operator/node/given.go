package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/wire"
)

// This file is a hostile operator's node, for tests. CUPEL_HOSTILE lists what it
// does, separated by semicolons; it is read again at every use, from the file that
// the variable names with a leading "@":
//
//	bind=SOURCE:PATH    mounts a file of the host over PATH
//	env=NAME=VALUE      adds to the launcher's environment
//	image-env=NAME=VALUE  adds an --env argument, as if it were the image's
//	entrypoint=PATH     replaces what follows "--" in the launcher's arguments
//	args=PATH           replaces the launcher as the first process
//	cas=ADDR            sends instances to another CAS
//	hook=PATH           runs a program before the instance starts
//	caps=CAP_X          gives the launcher another capability
//	volume=older        serves the generation before the one asked for
//	volume=flip         serves it with a byte changed
//	volume=short        serves half of it
//	volume=swap         serves another volume's snapshot

// orders are the names and values of what the hostile operator wants now.
func orders() [][2]string {
	v := os.Getenv("CUPEL_HOSTILE")
	if file, ok := strings.CutPrefix(v, "@"); ok {
		b, _ := os.ReadFile(file)
		v = string(b)
	}
	var list [][2]string
	for o := range strings.SplitSeq(v, ";") {
		if name, value, ok := strings.Cut(strings.TrimSpace(o), "="); ok {
			list = append(list, [2]string{name, value})
		}
	}
	return list
}

// launchSpec makes the specification as the product does, and then does to it what
// was ordered.
func launchSpec(profile launch.Version, img launch.ImageConfig, free launch.Free) ([]byte, error) {
	list := orders()
	for _, o := range list {
		if o[0] == "cas" {
			free.CASAddr = o[1]
		}
	}

	honest, err := launch.Spec(profile, img)
	if err != nil {
		return nil, err
	}
	if honest, err = launch.Fill(honest, free); err != nil {
		return nil, err
	}
	return falsify(honest, list)
}

// falsify changes a specification.
func falsify(b []byte, list [][2]string) ([]byte, error) {
	if len(list) == 0 {
		return b, nil
	}
	var spec map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&spec); err != nil {
		return nil, fmt.Errorf("hostile spec: %w", err)
	}
	process := spec["process"].(map[string]any)
	args := process["args"].([]any)
	for _, o := range list {
		switch o[0] {
		case "bind":
			source, dest, _ := strings.Cut(o[1], ":")
			spec["mounts"] = append(spec["mounts"].([]any),
				map[string]any{"destination": dest, "type": "bind", "source": source, "options": []string{"bind", "ro"}})
		case "env":
			process["env"] = append(process["env"].([]any), o[1])
		case "image-env":
			args = append(args[:2:2], append([]any{"--env", o[1]}, args[2:]...)...)
		case "entrypoint":
			for i, a := range args {
				if a == "--" {
					args = append(args[:i+1:i+1], o[1])
					break
				}
			}
		case "args":
			args = append([]any{o[1]}, args[1:]...)
		case "hook":
			spec["hooks"] = map[string]any{"createRuntime": []any{map[string]any{"path": o[1]}}}
		case "caps":
			caps := process["capabilities"].(map[string]any)
			for _, set := range []string{"bounding", "effective", "permitted"} {
				caps[set] = append(caps[set].([]any), o[1])
			}
		}
	}
	process["args"] = args
	return json.Marshal(spec)
}

// openVolume does as the product's does, with what otherVolume gives.
func (s *nodeSocket) openVolume(ctx context.Context, v wire.Snapshot) (body io.ReadCloser, size int64, err error) {
	body, size, err = otherVolume(ctx, s.volumes, v)

	var wentBack *problem.Error
	if problem.KindOf(err) == problem.NotFound {
		wentBack = s.volumes.newer(v.Volume, v.Generation)
	}
	s.casWentBack.Store(wentBack)
	return body, size, err
}

// otherVolume opens what was ordered in a snapshot's place, or that snapshot.
func otherVolume(ctx context.Context, s *volumeStore, v wire.Snapshot) (io.ReadCloser, int64, error) {
	for _, o := range orders() {
		if o[0] != "volume" {
			continue
		}
		switch o[1] {
		case "older":
			stored, err := s.list(v.Volume)
			if err != nil {
				return nil, 0, err
			}
			for _, old := range stored {
				if old.Generation+1 == v.Generation {
					return s.open(ctx, old)
				}
			}
		case "swap":
			others, _ := filepath.Glob(filepath.Join(s.dir, "*", "*"))
			for _, path := range others {
				if filepath.Base(filepath.Dir(path)) != v.Volume.String() {
					f, err := os.Open(path)
					return f, -1, err
				}
			}
		case "flip", "short":
			r, _, err := s.open(ctx, v)
			if err != nil {
				return nil, 0, err
			}
			defer r.Close()
			b, err := io.ReadAll(r)
			if err != nil {
				return nil, 0, err
			}
			if o[1] == "flip" {
				b[len(b)/2] ^= 1
			} else {
				b = b[:len(b)/2]
			}
			return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
		}
	}
	return s.open(ctx, v)
}
