package store

import (
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// record1 is a record of schema 1: one content per name, whose version was the
// registry's revision.
type record1 struct {
	Name          string            `json:"name"`
	State         string            `json:"state"`
	Message       string            `json:"message"`
	Digest        string            `json:"digest"`
	ConfigBlob    string            `json:"config_blob"`
	WeightsBlob   string            `json:"weights_blob"`
	Source        string            `json:"source"`
	Pinned        bool              `json:"pinned"`
	Labels        map[string]string `json:"labels"`
	MaxRank       int               `json:"max_rank"`
	TargetModules []string          `json:"target_modules"`
	SizeBytes     int64             `json:"size_bytes"`
	BaseModel     string            `json:"base_model"`
	Created       time.Time         `json:"created"`
	Updated       time.Time         `json:"updated"`
	LastUsed      time.Time         `json:"last_used"`
}

// upgrade makes its content version 1.
func (o record1) upgrade() Record {
	r := Record{
		Schema: Schema, Name: o.Name, State: State(o.State), Message: o.Message, Source: o.Source, Pinned: o.Pinned,
		Labels: o.Labels, Generation: 1, Created: o.Created, Updated: o.Updated,
	}
	switch o.State {
	case "ready", "loaded":
		r.State = StateLive
	}
	if o.Digest == "" {
		return r
	}
	r.Current, r.LastNumber = 1, 1
	r.Versions = []Version{{
		Number: 1, Loaded: o.State == "loaded", Digest: o.Digest, ConfigBlob: o.ConfigBlob, WeightsBlob: o.WeightsBlob,
		Source: o.Source, Labels: o.Labels, MaxRank: o.MaxRank, TargetModules: o.TargetModules, SizeBytes: o.SizeBytes,
		BaseModel: o.BaseModel, Created: o.Updated, LastUsed: o.LastUsed,
	}}
	return r
}

// migrate writes all records in this version's form. It is a part of the
// transaction that sets the schema: a crash leaves the old registry whole.
func migrate(adapters *bolt.Bucket) error {
	var records []Record
	err := adapters.ForEach(func(k, v []byte) error {
		r, err := decode(string(k), v)
		records = append(records, r)
		return err
	})
	if err != nil {
		return fmt.Errorf("migration to schema %d: %w", Schema, err)
	}
	for _, r := range records {
		v, err := encode(r)
		if err != nil {
			return err
		}
		if err := adapters.Put([]byte(r.Name), v); err != nil {
			return err
		}
	}
	return nil
}
