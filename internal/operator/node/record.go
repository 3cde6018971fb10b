package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/wire"
)

const recordVersion = 1

// record is one instance in the journal.
type record struct {
	Version   int                  `json:"version"`
	Spec      manager.InstanceSpec `json:"spec"` // without its grant, which stands beside it on disk
	CreatedAt time.Time            `json:"created_at"`
	Made      bool                 `json:"made"` // Start came to its end
	IP        netip.Addr           `json:"ip"`
	Report    wire.Status          `json:"report"` // the launcher's newest
	StartedAt time.Time            `json:"started_at,omitzero"`
	// CertificateSince is when the report first had the certificate's end that it
	// has now.
	CertificateSince time.Time `json:"certificate_since,omitzero"`
	Exit             *exit     `json:"exit,omitempty"`
}

// recordFile is a record as it lies on disk, for the node's eyes alone.
type recordFile struct {
	*record
	Grant string `json:"grant,omitempty"`
}

// exit is how an instance ended.
type exit struct {
	Code int       `json:"code"`
	At   time.Time `json:"at"`
	OOM  bool      `json:"oom,omitempty"`
	Lost bool      `json:"lost,omitempty"` // it vanished with the machine; Code is made up
	// Killed says that Stop killed it, since it did not end in time.
	Killed bool `json:"killed,omitempty"`
}

// damagedDir is where records are put that can't be read.
const damagedDir = "damaged"

// journal is the folder of records.
type journal struct{ dir string }

func (j journal) path(id ident.AttemptID) string { return filepath.Join(j.dir, string(id)+".json") }

// save writes a record: with sync it survives a crash of the machine. Otherwise that
// may leave the one before, which is enough for what dies with the machine too.
func (j journal) save(r *record, sync bool) error {
	r.Version = recordVersion
	b, err := json.MarshalIndent(recordFile{record: r, Grant: string(r.Spec.Grant.Reveal())}, "", " ")
	if err != nil {
		return fmt.Errorf("encode instance record: %w", err)
	}

	write := atomicfile.Replace
	if sync {
		write = atomicfile.Write
	}
	return write(j.path(r.Spec.ID), append(b, '\n'), 0o600)
}

func (j journal) remove(id ident.AttemptID) error {
	if err := os.Remove(j.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove instance record: %w", err)
	}
	return atomicfile.SyncDir(j.dir)
}

// damage is a record that can't be read, and that was put aside.
type damage struct {
	id   ident.AttemptID
	file string // where it lies now, below the node's folder
	why  error
}

// load returns all records. Those that can't be read are put aside in damaged, a
// folder beside the journal's: one of them is no reason to do nothing for the others.
func (j journal) load() ([]*record, []damage, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read instance records: %w", err)
	}

	var records []*record
	var damaged []damage
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			_ = os.Remove(filepath.Join(j.dir, e.Name())) // a write that broke off
			continue
		}

		r, err := j.read(ident.AttemptID(id))
		if err == nil {
			records = append(records, r)
			continue
		}
		if problem.From(err).Rule == problem.RuleStateNewer {
			return nil, nil, err
		}

		file, merr := j.putAside(ident.AttemptID(id))
		damaged = append(damaged, damage{id: ident.AttemptID(id), file: file, why: errors.Join(err, merr)})
	}
	return records, damaged, nil
}

func (j journal) read(id ident.AttemptID) (*record, error) {
	b, err := atomicfile.Read(j.path(id))
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, errors.New("it is empty")
	}

	var r record
	stored := recordFile{record: &r}
	switch err := json.Unmarshal(b, &stored); {
	case err != nil:
		return nil, fmt.Errorf("it is no JSON of a record: %w", err)
	case r.Version > recordVersion: // its instance is none to be removed
		return nil, problem.New(problem.Conflict, problem.RuleStateNewer, "instance record %s has version %d", j.path(id), r.Version).
			Want("version %d", recordVersion).Fix("start the newer cupeld that wrote it")
	case r.Version != recordVersion:
		return nil, fmt.Errorf("it has version %d, not %d", r.Version, recordVersion)
	case r.Spec.ID != id:
		return nil, fmt.Errorf("it is of %.100q", r.Spec.ID)
	}

	if stored.Grant != "" {
		r.Spec.Grant = secret.NewString(stored.Grant)
	}
	return &r, nil
}

// putAside moves a record where nobody takes it for one, and says where.
func (j journal) putAside(id ident.AttemptID) (string, error) {
	dir := filepath.Join(filepath.Dir(j.dir), damagedDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("put it aside: %w", err)
	}

	if err := os.Rename(j.path(id), filepath.Join(dir, string(id)+".json")); err != nil {
		return "", fmt.Errorf("put it aside: %w", err)
	}

	return filepath.Join(damagedDir, string(id)+".json"), errors.Join(atomicfile.SyncDir(dir), atomicfile.SyncDir(j.dir))
}

// Ports are those that instances below a node's folder listen on, whether the node
// runs or not; records that can't be read are left to it.
func Ports(dir string) []uint16 {
	j := journal{filepath.Join(dir, "instances")}
	files, _ := os.ReadDir(j.dir)

	var out []uint16
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue
		}
		if r, err := j.read(ident.AttemptID(id)); err == nil && r.Exit == nil && r.Spec.Port != 0 {
			out = append(out, r.Spec.Port)
		}
	}

	slices.Sort(out)
	return slices.Compact(out)
}
