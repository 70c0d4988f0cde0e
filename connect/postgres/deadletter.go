package postgres

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// deadLetterColumns are the columns that deadReader encodes, in its order.
const deadLetterColumns = `flow, cluster_id, topic, topic_id, partition, "offset", "timestamp", key, value, headers, stage, class, column_name, message`

const deadLetterFields = 14

// deadLetters writes the rejected records of the batch.
func (w *writer) deadLetters(ctx context.Context, b *flow.Batch) error {
	letters := b.DeadLetters()
	if len(letters) == 0 {
		return nil
	}
	s := w.sink
	w.dead.reset(s.setup.Flow, s.setup.ClusterID, letters)
	err := w.dead.store(ctx, w.conn.pg, s.place.names.dead)
	w.dead.letters = nil
	return err
}

// store writes the letters into the table.
func (r *deadReader) store(ctx context.Context, pg *pgconn.PgConn, to tableName) error {
	sql := fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", to, deadLetterColumns)
	err := classify("write dead letters into "+to.String(), copyFrom(ctx, pg, sql, r))
	if flow.ClassOf(err) == flow.ClassData {
		// There is no place left for the records: the flow must not go on.
		return flow.Fatal(fmt.Errorf("the dead-letter table refuses records: %w", err))
	}
	return err
}

// deadReader encodes dead letters for COPY, one at a time.
type deadReader struct {
	flow, cluster string
	letters       []flow.DeadLetter
	next          int
	buf           []byte
	off           int
	ended         bool
}

func (r *deadReader) reset(name, cluster string, letters []flow.DeadLetter) {
	buf := r.buf[:0]
	if cap(buf) > keptCarry {
		buf = nil
	}
	*r = deadReader{flow: name, cluster: cluster, letters: letters, buf: append(buf, copyHeader...)}
}

// Read hands out the encoded letters.
func (r *deadReader) Read(p []byte) (int, error) {
	n := 0
	for {
		c := copy(p[n:], r.buf[r.off:])
		n += c
		r.off += c
		if n == len(p) {
			return n, nil
		}
		r.buf, r.off = r.buf[:0], 0
		switch {
		case r.ended:
			return n, io.EOF
		case r.next == len(r.letters):
			r.buf = append(r.buf, copyTrailer...)
			r.ended = true
		default:
			failpoint.Hit("sink.dead_letter")
			r.buf = r.append(r.buf, &r.letters[r.next])
			r.next++
		}
	}
}

func (r *deadReader) append(dst []byte, d *flow.DeadLetter) []byte {
	cluster := d.ClusterID
	if cluster == "" {
		cluster = r.cluster
	}
	dst = append(dst, 0, deadLetterFields)
	dst = appendText(dst, r.flow)
	dst = appendText(dst, cluster)
	dst = appendText(dst, d.Topic)
	dst = appendText(dst, d.TopicID)
	dst = append(dst, 0, 0, 0, 4)
	dst = binary.BigEndian.AppendUint32(dst, uint32(d.ID))
	dst = append8(dst, uint64(d.Record.Offset))
	// Kafka allows any timestamp: one that PostgreSQL has not becomes its earliest.
	dst = append8(dst, uint64(max(d.Record.Timestamp, minTimestamp+epochMicros)-epochMicros))
	dst = appendNullable(dst, d.Record.Key)
	dst = appendNullable(dst, d.Record.Value)
	dst = appendHeaders(dst, d.Record.Headers)
	dst = appendText(dst, string(d.Stage))
	dst = appendText(dst, d.Class)
	dst = appendText(dst, d.Column)
	return appendText(dst, d.Message)
}

// appendHeaders appends the headers as jsonb: a list of objects with key and
// value, which keeps their order, and keys that repeat. Values are any bytes, so
// they are base64.
func appendHeaders(dst []byte, headers []flow.Header) []byte {
	type header struct {
		Key   string `json:"key"`
		Value []byte `json:"value"`
	}
	out := make([]header, len(headers))
	for i, h := range headers {
		out[i] = header{Key: strings.ReplaceAll(h.Key, "\x00", "\uFFFD"), Value: h.Value}
	}
	text, err := json.Marshal(out)
	if err != nil { // strings and bytes always can be
		panic(err)
	}
	return append(append(appendLen(dst, len(text)+1), 1), text...)
}

// appendText appends text, with what PostgreSQL's text cannot hold replaced.
func appendText(dst []byte, s string) []byte {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	return append(appendLen(dst, len(s)), s...)
}

func appendNullable(dst, v []byte) []byte {
	if v == nil {
		return append(dst, 0xff, 0xff, 0xff, 0xff)
	}
	return append(appendLen(dst, len(v)), v...)
}
