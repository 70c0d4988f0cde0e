package timetext

import (
	"testing"
	"time"
)

func TestWhatFormatWritesIsRead(t *testing.T) {
	for _, micros := range []int64{0, 1, -1, 1769860800123456, 253402300800000000, 1769860800123456000, -62135596800000001, -99999999999999999, 1 << 62, -1 << 62} {
		want := time.UnixMicro(micros).UTC()
		got, err := Parse(time.RFC3339Nano, want.Format(time.RFC3339Nano))
		if err != nil || !got.Equal(want) {
			t.Errorf("%s: got %s, %v", want.Format(time.RFC3339Nano), got, err)
		}
	}
	for _, s := range []string{"", "-", "x", "12345", "12345-13-01T00:00:00Z", "-x-01-01T00:00:00Z"} {
		if got, err := Parse(time.RFC3339Nano, s); err == nil {
			t.Errorf("%q: got %s, want an error", s, got)
		}
	}
}
