package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/volume"
)

const recordVersion = 1

// record is one instance in the journal.
type record struct {
	Version   int                  `json:"version"`
	Spec      manager.InstanceSpec `json:"spec"` // without its grant, which stands beside it on disk
	CreatedAt time.Time            `json:"created_at"`
	Made      bool                 `json:"made"` // Start came to its end
	IP        netip.Addr           `json:"ip"`
	Report    volume.Status        `json:"report"` // the launcher's newest
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

// journal is the folder of records.
type journal struct{ dir string }

func (j journal) path(id string) string { return filepath.Join(j.dir, id+".json") }

// save writes a record: with sync it survives a crash of the machine, otherwise
// one of this process, which is enough for what dies with the machine too.
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

func (j journal) remove(id string) error {
	if err := os.Remove(j.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove instance record: %w", err)
	}
	return atomicfile.SyncDir(j.dir)
}

// load returns all records; one that can't be read is an error that names it.
func (j journal) load() ([]*record, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("read instance records: %w", err)
	}
	var records []*record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			_ = os.Remove(filepath.Join(j.dir, e.Name())) // a write that broke off
			continue
		}
		b, err := os.ReadFile(j.path(id))
		if err != nil {
			return nil, fmt.Errorf("read instance record: %w", err)
		}
		var r record
		stored := recordFile{record: &r}
		if err := json.Unmarshal(b, &stored); err != nil || r.Version != recordVersion || r.Spec.ID != id {
			return nil, fmt.Errorf("instance record %s: version %d, id %q: want version %d of that id (%w)",
				j.path(id), r.Version, r.Spec.ID, recordVersion, err)
		}
		if stored.Grant != "" {
			r.Spec.Grant = secret.NewString(stored.Grant)
		}
		records = append(records, &r)
	}
	return records, nil
}
