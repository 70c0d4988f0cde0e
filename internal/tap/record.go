package tap

import (
	"encoding/base64"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/penstockdev/penstock/internal/coljson"
)

// The encodings of a key, a value or a header.
const (
	EncodingJSON   = "json"
	EncodingText   = "text"
	EncodingBase64 = "base64"
)

// Record is one record of the sample, as people and programs get it.
type Record struct {
	Stage string `json:"stage"`
	Flow  string `json:"flow"`
	Lane  int    `json:"lane"`
	// Passed is how many records have passed this stage since the one that was shown before,
	// this one included.
	Passed    int64     `json:"passed"`
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Time      time.Time `json:"time"`
	// Key is a string, null where there is none. KeyEncoding is text or base64.
	Key         json.RawMessage `json:"key"`
	KeyEncoding string          `json:"key_encoding,omitempty"`
	// Value is null for a tombstone (ValueEncoding is empty then), the JSON value itself
	// where it is JSON in UTF-8, else a string: text where it is UTF-8, else base64. ValueEncoding says which.
	Value         json.RawMessage `json:"value"`
	ValueEncoding string          `json:"value_encoding,omitempty"`
	// Cut is how many bytes the value is longer than what is shown.
	Cut     int      `json:"value_cut,omitempty"`
	Headers []Header `json:"headers,omitempty"`
	// Row are the columns by name, at the stages decoded and written of a flow that decodes.
	Row json.RawMessage `json:"row,omitempty"`
	// Of a dead letter: where it failed (decode, transform, write), and why.
	FailedAt string `json:"failed_at,omitempty"`
	Class    string `json:"class,omitempty"`
	Column   string `json:"column,omitempty"`
	Message  string `json:"message,omitempty"`
}

// Header is a header of a Record. They keep their order, and may repeat a key.
type Header struct {
	Key string `json:"key"`
	// Value is a string, null where there is none.
	Value    json.RawMessage `json:"value"`
	Encoding string          `json:"encoding,omitempty"`
}

// record is the form that is shown. Only Run calls it.
func (s *seen) record(flowName string) *Record {
	r := &Record{
		Stage: s.stage.name, Flow: flowName, Lane: s.lane, Passed: max(1, s.passed-s.stage.shown),
		Topic: s.at.Topic, Partition: s.at.ID, Offset: s.rec.Offset, Time: time.UnixMicro(s.rec.Timestamp).UTC(),
		Cut: s.cut, Row: s.row, FailedAt: string(s.failed), Class: s.class, Column: s.column, Message: s.message,
	}
	s.stage.shown = max(s.stage.shown, s.passed)
	r.Key, r.KeyEncoding = text(s.rec.Key)
	if r.Value, r.ValueEncoding = s.rec.Value, EncodingJSON; !utf8.Valid(s.rec.Value) || !json.Valid(s.rec.Value) {
		r.Value, r.ValueEncoding = text(s.rec.Value)
	}
	for _, h := range s.rec.Headers {
		out := Header{Key: h.Key}
		out.Value, out.Encoding = text(h.Value)
		r.Headers = append(r.Headers, out)
	}
	return r
}

// text is b as a JSON string.
func text(b []byte) (out json.RawMessage, encoding string) {
	switch {
	case b == nil:
		return nil, ""
	case utf8.Valid(b):
		return coljson.AppendString(nil, b), EncodingText
	default:
		return coljson.AppendString(nil, base64.StdEncoding.EncodeToString(b)), EncodingBase64
	}
}
