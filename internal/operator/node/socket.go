package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/httpproblem"
	"cupel.dev/cupel/internal/trusted/wire"
)

const maxStatus = 64 << 10

// nodeSocket serves one instance's node socket: the launcher's way to store
// ciphertext and to say how far it is. The directory is mounted into that one
// instance, so the listener is the caller's identity.
type nodeSocket struct {
	id      ident.AttemptID
	app     volumeUser
	memory  uint64
	volumes *volumeStore
	report  func(ctx context.Context, s wire.Status) wire.Orders
	storing func(pushing int)            // see Node.storing; may be nil
	stored  func(context.Context, error) // how a store of a volume went; may be nil
	logger  *slog.Logger

	// casWentBack says that the generation which was asked for last isn't here, where newer
	// ones are; nil: it is here, or none is.
	casWentBack atomic.Pointer[problem.Error]

	server   *http.Server
	listener net.Listener
}

// serve listens in dir until close.
func (s *nodeSocket) serve(dir string) error {
	l, err := ListenUnix(dir, wire.NodeSocket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathVolumes+"{id}", s.answer(s.getVolume))
	mux.HandleFunc("PUT "+wire.PathVolumes+"{id}", s.answer(s.putVolume))
	mux.HandleFunc("POST "+wire.PathStatus, s.answer(s.postStatus))

	s.listener = l
	s.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}

	go func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("node socket ended", "instance", s.id, "error", err)
		}
	}()
	return nil
}

func (s *nodeSocket) close() { _ = s.server.Close() }

// answer turns a handler's error into a problem body.
func (s *nodeSocket) answer(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.logger.WarnContext(r.Context(), "node socket refused", "instance", s.id, "path", r.URL.Path, "error", err)
			httpproblem.Write(w, "", err)
		}
	}
}

// target is what a request is about: a volume, and one of its generations.
func (s *nodeSocket) target(r *http.Request) (id ident.Digest, generation uint64, err error) {
	id, err = ident.ParseDigest(r.PathValue("id"))
	if err != nil {
		return id, 0, problem.New(problem.Invalid, problem.RuleVolumeID, "volume: %w", err)
	}

	q := r.URL.Query().Get(wire.QueryGeneration)
	generation, err = strconv.ParseUint(q, 10, 64)
	if err != nil || generation == 0 {
		return id, 0, problem.New(problem.Invalid, ruleGeneration, "generation %q", q).Want("a number from 1 on")
	}
	return id, generation, nil
}

func parseTag(text string) (ident.Digest, error) {
	tag, err := ident.ParseDigest(text)
	if err != nil {
		return tag, problem.New(problem.Invalid, problem.RuleVolumeTag, "the snapshot's tag: %w", err)
	}
	return tag, nil
}

// getVolume gives out the snapshot that the CAS named to the launcher.
func (s *nodeSocket) getVolume(w http.ResponseWriter, r *http.Request) error {
	id, generation, err := s.target(r)
	if err != nil {
		return err
	}
	tag, err := parseTag(r.URL.Query().Get(wire.QueryTag))
	if err != nil {
		return err
	}

	body, size, err := s.openVolume(r.Context(), wire.Snapshot{Volume: id, Generation: generation, Tag: tag})
	if err != nil {
		return err
	}
	defer body.Close()

	s.volumes.use(r.Context(), id, s.app)

	w.Header().Set("Content-Type", "application/octet-stream")
	if size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}

	if _, err := io.Copy(w, body); err != nil {
		s.volumes.doubt() // the disk may have failed
		s.logger.WarnContext(r.Context(), "sending a volume broke off", "instance", s.id, "volume", id.String(), "error", err)
		panic(http.ErrAbortHandler) // the caller must not take it for the end
	}
	return nil
}

// putVolume stores the snapshot that the launcher sealed.
func (s *nodeSocket) putVolume(w http.ResponseWriter, r *http.Request) error {
	id, generation, err := s.target(r)
	if err != nil {
		return err
	}

	limit := int64(wire.MaxSnapshot(wire.Budget(s.memory)))
	body := s.counted(http.MaxBytesReader(w, r.Body, limit))
	defer body.done()

	// The trailer is there once the body has been read to its end.
	tag := func() (ident.Digest, error) { return parseTag(r.Trailer.Get(wire.TrailerTag)) }
	err = s.volumes.put(r.Context(), id, generation, body, tag)

	// What the instance does wrong, or breaks off, is no trouble of the machine's.
	if own := body.broken || problem.KindOf(err) == problem.Invalid; s.stored != nil && !own {
		s.stored(r.Context(), err)
	}
	if err != nil {
		if _, over := errors.AsType[*http.MaxBytesError](err); over {
			return problem.New(problem.Invalid, wire.RuleVolumeTooLarge, "a snapshot of more than %d bytes", limit).
				Want("at most what volumes may take of the instance's memory, and %d times that with holes", wire.MaxLength)
		}
		return err
	}

	s.volumes.use(r.Context(), id, s.app)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// arriving is a volume's body that tells how it comes in.
type arriving struct {
	io.Reader
	storing func(pushing int)
	ended   bool
	broken  bool // it did not come to its end, or is too large
}

// counted wraps the body of a volume that comes in.
func (s *nodeSocket) counted(r io.Reader) *arriving {
	storing := s.storing
	if storing == nil {
		storing = func(int) {}
	}
	return &arriving{Reader: r, storing: storing}
}

func (a *arriving) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	pushing := 0
	if err == io.EOF && !a.ended { // as io.Reader defines it: never wrapped
		a.ended = true
		pushing = 1
	} else if err != nil && err != io.EOF {
		a.broken = true
	}

	a.storing(pushing)
	return n, err
}

// done says that nothing is done with the body any more.
func (a *arriving) done() {
	if a.ended {
		a.storing(-1)
	}
}

// postStatus takes the launcher's report and answers with the node's orders.
func (s *nodeSocket) postStatus(w http.ResponseWriter, r *http.Request) error {
	var st wire.Status
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxStatus)).Decode(&st); err != nil {
		return problem.New(problem.Invalid, ruleStatus, "status: %w", err)
	}
	if st.Version != wire.StatusVersion {
		return problem.New(problem.Invalid, ruleStatus, "status version %d", st.Version).Want("%d", wire.StatusVersion)
	}

	switch st.Phase {
	case wire.Starting, wire.Attesting, wire.Attested, wire.Mounting, wire.Running,
		wire.Stopping, wire.Committing, wire.Exited, wire.Refused:
	default:
		return problem.New(problem.Invalid, ruleStatus, "phase %q", st.Phase)
	}

	if why := s.casWentBack.Load(); why != nil && st.Problem != nil && st.Problem.Rule == wire.RuleVolumeMissing {
		st.Problem = why
	}
	if st.Phase == wire.Refused {
		s.volumes.doubt() // it may be for what was given to it
	}

	orders := s.report(r.Context(), st)
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(orders)
}
