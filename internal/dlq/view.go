package dlq

import (
	"bytes"
	"encoding/json"
	"io"
	"time"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
)

// View is a letter as JSON: whole, byte by byte. Key, value and the values of headers are text
// where they are UTF-8, else base64 under another name.
type View struct {
	ID        string    `json:"id"`
	Flow      string    `json:"flow"`
	Class     string    `json:"class"`
	Column    string    `json:"column,omitempty"`
	Message   string    `json:"message"`
	Stage     string    `json:"stage"`
	Since     time.Time `json:"since"`
	Redrives  int       `json:"redrives"`
	Job       string    `json:"job,omitempty"`
	Cluster   string    `json:"cluster"`
	Topic     string    `json:"topic"`
	TopicID   string    `json:"topic_id,omitempty"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	// Time is the record's own.
	Time        time.Time    `json:"time"`
	Key         *string      `json:"key,omitempty"`
	KeyBase64   []byte       `json:"key_base64,omitempty"`
	Value       *string      `json:"value,omitempty"`
	ValueBase64 []byte       `json:"value_base64,omitempty"`
	Tombstone   bool         `json:"tombstone,omitempty"`
	Headers     []HeaderView `json:"headers"`
	Place       PlaceView    `json:"kept_at"`
}

// HeaderView is a header.
type HeaderView struct {
	Key         string  `json:"key"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

// PlaceView is where the letter is kept: a partition and an offset of a topic, or a row of a table.
type PlaceView struct {
	Name      string `json:"name"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// ViewOf copies the letter.
func ViewOf(l *flow.Letter) View {
	c := cloneLetter(l)
	v := View{
		ID: IDOf(&c).String(), Flow: c.Flow, Class: c.Class, Column: c.Column, Message: c.Message, Stage: string(c.Stage),
		Since: c.Since.UTC(), Redrives: c.Redrives, Job: c.Job, Cluster: c.ClusterID, Topic: c.Topic, TopicID: c.TopicID,
		Partition: c.Partition.ID, Offset: c.Record.Offset, Time: time.UnixMicro(c.Record.Timestamp).UTC(), Tombstone: c.Record.Value == nil,
		Headers: []HeaderView{}, Place: PlaceView{c.Place.Topic, c.Place.ID, c.Place.Offset},
	}
	v.Key, v.KeyBase64 = text(c.Record.Key)
	v.Value, v.ValueBase64 = text(c.Record.Value)
	for _, h := range c.Record.Headers {
		hv := HeaderView{Key: h.Key}
		hv.Value, hv.ValueBase64 = text(h.Value)
		v.Headers = append(v.Headers, hv)
	}
	return v
}

// text is b as text, or as bytes; nil and nil for nil.
func text(b []byte) (*string, []byte) {
	switch {
	case b == nil:
		return nil, nil
	case utf8.Valid(b):
		s := string(b)
		return &s, nil
	}
	return nil, b
}

// WriteLetter writes the letter as one line of JSON.
func WriteLetter(w io.Writer, l *flow.Letter) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(ViewOf(l)); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}
