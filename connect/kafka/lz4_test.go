package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// testDecompressor makes one with a limit.
func testDecompressor(t testing.TB, limit int) *decompressor {
	t.Helper()
	cl, err := kgo.NewClient(kgo.MaxDecompressBatchBytes(limit))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	return newDecompressor(cl)
}

// telemetry is n bytes of JSON records of 512 bytes that lz4 takes to a little
// more than half.
func telemetry(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 6000)
	for i := range words {
		words[i] = strconv.FormatUint(rnd.Uint64()>>(12+rnd.IntN(26)), 36)
	}
	b := make([]byte, 0, n+512)
	for len(b) < n {
		end := len(b) + 510
		b = fmt.Appendf(b, `{"device_id":"dev-%06d","seq":%d,"ts":"2026-01-02T03:04:05.%06dZ","temp":%.2f,"payload":"`,
			rnd.IntN(10_000), len(b), rnd.IntN(1_000_000), float64(rnd.IntN(12_000)-3_000)/100)
		for len(b) < end {
			b = append(append(b, words[rnd.IntN(len(words))]...), ' ')
		}
		b = append(b[:end], `"}`...)
	}
	return b[:n]
}

func noise(n int) []byte {
	b := make([]byte, n)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// frame compresses data with the library's Writer.
func frame(t testing.TB, data []byte, opts ...lz4.Option) []byte {
	t.Helper()
	var out bytes.Buffer
	w := lz4.NewWriter(&out)
	if err := w.Apply(opts...); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// javaFrame is what Kafka's Java producer makes: independent blocks of 64 KiB,
// no content size, no checksums but the header's.
func javaFrame(t testing.TB, data []byte) []byte {
	t.Helper()
	return frame(t, data, lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false))
}

// header makes the magic number and a descriptor with the flags and, if that is
// not negative, the content size.
func header(t testing.TB, flags uint16, contentSize int64) []byte {
	t.Helper()
	h := binary.LittleEndian.AppendUint32(nil, lz4Magic)
	h = binary.LittleEndian.AppendUint16(h, flags)
	if contentSize >= 0 {
		h = binary.LittleEndian.AppendUint64(h, uint64(contentSize))
	}
	for sum := range 256 { // the library keeps its hash to itself
		if ok, err := lz4.ValidFrameHeader(append(h, byte(sum))); ok && err == nil {
			return append(h, byte(sum))
		}
	}
	return append(h, 0) // an invalid one
}

// block makes a block, stored or compressed.
func block(data []byte, stored bool) []byte {
	size := uint32(len(data))
	if stored {
		size |= 1 << 31
	}
	return append(binary.LittleEndian.AppendUint32(nil, size), data...)
}

var endMark = make([]byte, 4)

// linkedFrame makes a frame whose blocks refer to the ones before, which the
// library's Writer does not make, of random sequences; and what it holds.
func linkedFrame(t testing.TB, seed uint64, blocks int) (src, data []byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 5))
	src = header(t, 1<<6|4<<lz4BlockSizeAt, -1)
	more := func(b []byte, n int) []byte { // of a length of 15 or more
		for n -= 15; n >= 255; n -= 255 {
			b = append(b, 255)
		}
		return append(b, byte(n))
	}
	for i := range blocks {
		if i == 0 || rnd.IntN(5) == 0 {
			stored := noise(1 + rnd.IntN(lz4MinBlockSize))
			src = append(src, block(stored, true)...)
			data = append(data, stored...)
			continue
		}
		var b []byte
		for room := lz4MinBlockSize - 100; ; {
			literals, length := rnd.IntN(40), 4+rnd.IntN(1<<rnd.IntN(14))
			if room -= literals + length; room < 0 {
				break
			}
			b = append(b, byte(min(literals, 15)<<4|min(length-4, 15)))
			if literals >= 15 {
				b = more(b, literals)
			}
			for range literals {
				c := byte(rnd.Uint32())
				b, data = append(b, c), append(data, c)
			}
			distance := 1 + rnd.IntN(min(len(data), lz4Window-1))
			b = binary.LittleEndian.AppendUint16(b, uint16(distance))
			if length-4 >= 15 {
				b = more(b, length-4)
			}
			for range length {
				data = append(data, data[len(data)-distance])
			}
		}
		b = append(b, "\x50hello"...)
		data = append(data, "hello"...)
		src = append(src, block(b, false)...)
	}
	return append(src, endMark...), data
}

// decompressors returns some that make different guesses: none, and always too
// little, and always too much.
func decompressors(like *decompressor) map[string]*decompressor {
	out := map[string]*decompressor{}
	for name, ratio := range map[string]int64{"measured": 0, "too little": ratioUnit / 8, "too much": maxGuess*ratioUnit - 1} {
		d := &decompressor{limit: like.limit, kgo: like.kgo}
		for i := range d.ratios {
			d.ratios[i].Store(ratio)
		}
		out[name] = d
	}
	return out
}

// wantData decompresses src with different guesses, each more than once.
func wantData(t testing.TB, src, want []byte) {
	t.Helper()
	for name, d := range decompressors(testDecompressor(t, 1<<30)) {
		for n := range 2 {
			if n > 0 && name != "measured" {
				break // it has learned nothing that it would not have measured
			}
			got, err := d.Decompress(src, kgo.CodecLz4)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if !bytes.Equal(got, want) {
				t.Errorf("%s: got %d other bytes than the %d wanted", name, len(got), len(want))
			}
			if cap(got) > len(got)+len(got)/8+16 {
				t.Errorf("%s: %d bytes are kept for %d", name, cap(got), len(got))
			}
		}
	}
}

func TestDecompressLZ4(t *testing.T) {
	t.Parallel()
	const most = 5 << 20 // more than the largest block
	inputs := map[string][]byte{"zeros": make([]byte, most), "telemetry": telemetry(most), "noise": noise(most)}
	for _, size := range []int{0, 1, 2, 15, 100, 4 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300 << 10, most} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			for name, all := range inputs {
				data := all[:size]
				wantData(t, javaFrame(t, data), data)
				for _, blockSize := range []lz4.BlockSize{lz4.Block64Kb, lz4.Block256Kb, lz4.Block1Mb, lz4.Block4Mb} {
					for i, opts := range [][]lz4.Option{
						{},
						{lz4.ChecksumOption(false), lz4.SizeOption(uint64(size))},
						{lz4.BlockChecksumOption(true)},
						{lz4.BlockChecksumOption(true), lz4.SizeOption(uint64(size)), lz4.CompressionLevelOption(lz4.CCompatFast)},
						{lz4.CompressionLevelOption(lz4.Level9)},
					} {
						if size == most && (i > 0 || blockSize < lz4.Block1Mb) {
							continue // slow under the race detector
						}
						wantData(t, frame(t, data, append(opts, lz4.BlockSizeOption(blockSize))...), data)
						if t.Failed() {
							t.Fatalf("%s, %s, options %d", name, blockSize, i)
						}
					}
				}
			}
		})
	}
}

func TestDecompressLinkedBlocks(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		src, want := linkedFrame(t, seed, 5)
		if got, err := io.ReadAll(lz4.NewReader(bytes.NewReader(src))); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: the test makes frames that the library does not read: %v", seed, err)
		}
		wantData(t, src, want)
	}
}

func TestDecompressManyFrames(t *testing.T) {
	t.Parallel()
	linked, linkedData := linkedFrame(t, 1, 3)
	text := telemetry(100 << 10)
	skip := append(binary.LittleEndian.AppendUint32(nil, 0x184D2A53), 3, 0, 0, 0, 'x', 'y', 'z')
	wantData(t, slices.Concat(skip, linked, javaFrame(t, text), skip, skip, frame(t, nil), linked, skip),
		slices.Concat(linkedData, text, linkedData))
	wantData(t, nil, nil)
	wantData(t, skip, nil)

	// The first Java clients wrote another header checksum.
	old := javaFrame(t, text)
	old[6] ^= 0x55
	wantData(t, old, text)

	var legacy bytes.Buffer
	w := lz4.NewWriter(&legacy)
	if err := w.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	wantData(t, legacy.Bytes(), text)
}

func TestDecompressBrokenLZ4(t *testing.T) {
	t.Parallel()
	const plain = 1<<6 | lz4Independent | 4<<lz4BlockSizeAt // version 1, blocks of 64 KiB
	head := header(t, plain, -1)
	join := slices.Concat[[]byte]
	for name, c := range map[string]struct {
		src  []byte
		want error
	}{
		"no magic number":     {[]byte("not lz4 at all"), lz4.ErrInvalidFrame},
		"rest after a frame":  {join(javaFrame(t, []byte("x")), []byte("garbage")), lz4.ErrInvalidFrame},
		"version":             {header(t, 2<<6|4<<lz4BlockSizeAt, -1), lz4.ErrInvalidFrameDescriptor},
		"reserved bit":        {header(t, plain|2, -1), lz4.ErrInvalidFrameDescriptor},
		"dictionary":          {header(t, plain|lz4DictID, -1), lz4.ErrInvalidFrameDescriptor},
		"block size":          {header(t, 1<<6|3<<lz4BlockSizeAt, -1), lz4.ErrInvalidFrameDescriptor},
		"large block":         {join(head, block(make([]byte, lz4MinBlockSize+1), true), endMark), lz4.ErrInvalidFrame},
		"size of 2 GiB":       {join(head, []byte{255, 255, 255, 127}), lz4.ErrInvalidFrame},
		"block of too much":   {join(head, block(append([]byte("\x1fa\x01\x00"), bytes.Repeat([]byte{255}, 300)...), false), endMark), lz4.ErrInvalidSourceShortBuffer},
		"content size small":  {join(header(t, plain|lz4ContentSize, 2), block([]byte("abc"), true), endMark), lz4.ErrInvalidContentSize},
		"content size large":  {join(header(t, plain|lz4ContentSize, 4), block([]byte("abc"), true), endMark), lz4.ErrInvalidContentSize},
		"content size absurd": {join(header(t, plain|lz4ContentSize, 1<<62), block([]byte("abc"), true), endMark), lz4.ErrInvalidContentSize},
		"match before begin":  {join(head, block([]byte("\x10a\x02\x00\x10b"), false), endMark), lz4.ErrInvalidSourceShortBuffer},
		"match of block before": {
			join(head, block([]byte("abcdefgh"), true), block([]byte("\x10a\x02\x00\x10b"), false), endMark),
			lz4.ErrInvalidSourceShortBuffer,
		},
		"match of frame before": {
			join(header(t, 1<<6|4<<lz4BlockSizeAt, -1), block([]byte("abcdefgh"), true), endMark,
				header(t, 1<<6|4<<lz4BlockSizeAt, -1), block([]byte("\x10a\x02\x00\x10b"), false), endMark),
			lz4.ErrInvalidSourceShortBuffer,
		},
		"distance 0":          {join(head, block([]byte("\x10a\x00\x00\x10b"), false), endMark), lz4.ErrInvalidSourceShortBuffer},
		"half a distance":     {join(head, block([]byte("\x10a\x01"), false), endMark), lz4.ErrInvalidSourceShortBuffer},
		"too few literals":    {join(head, block([]byte("\x50hell"), false), endMark), lz4.ErrInvalidSourceShortBuffer},
		"endless literals":    {join(head, block([]byte("\xf0\xff\xff"), false), endMark), lz4.ErrInvalidSourceShortBuffer},
		"endless match":       {join(head, block([]byte("\x1fa\x01\x00\xff"), false), endMark), lz4.ErrInvalidSourceShortBuffer},
		"frame to be skipped": {[]byte{0x50, 0x2A, 0x4D, 0x18, 255, 255, 255, 255, 0}, io.ErrUnexpectedEOF},
	} {
		for guess, d := range decompressors(testDecompressor(t, 1<<30)) {
			if got, err := d.Decompress(c.src, kgo.CodecLz4); !errors.Is(err, c.want) || got != nil {
				t.Errorf("%s, %s: got %d bytes, error %v; want %v", name, guess, len(got), err, c.want)
			}
		}
	}
	for name, whole := range map[string][]byte{
		"java":     javaFrame(t, telemetry(2000)),
		"franz-go": frame(t, telemetry(2000), lz4.BlockChecksumOption(true), lz4.SizeOption(2000)),
	} {
		ds := decompressors(testDecompressor(t, 1<<30))
		for n := 1; n < len(whole); n++ {
			for guess, d := range ds {
				if _, err := d.Decompress(whole[:n], kgo.CodecLz4); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s, %s, %d of %d bytes: %v", name, guess, n, len(whole), err)
				}
			}
		}
	}
}

func TestDecompressLimit(t *testing.T) {
	t.Parallel()
	data := telemetry(100_000)
	for codec, c := range map[kgo.CompressionCodecType]kgo.CompressionCodec{
		kgo.CodecGzip: kgo.GzipCompression(), kgo.CodecSnappy: kgo.SnappyCompression(),
		kgo.CodecLz4: kgo.Lz4Compression(), kgo.CodecZstd: kgo.ZstdCompression(),
	} {
		compressor, err := kgo.DefaultCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		src, used := compressor.Compress(new(bytes.Buffer), data)
		if used != codec {
			t.Fatalf("codec %d in place of %d", used, codec)
		}
		src = bytes.Clone(src)
		for name, d := range decompressors(testDecompressor(t, len(data))) {
			if got, err := d.Decompress(src, codec); err != nil || !bytes.Equal(got, data) {
				t.Errorf("codec %d, %s: %d bytes, error %v", codec, name, len(got), err)
			}
		}
		for name, d := range decompressors(testDecompressor(t, len(data)-1)) {
			if _, err := d.Decompress(src, codec); !errors.Is(err, kgo.ErrMaxDecompress) {
				t.Errorf("codec %d, %s: want ErrMaxDecompress, got %v", codec, name, err)
			}
		}
	}
	d := testDecompressor(t, 10)
	if got, err := d.Decompress(data, kgo.CodecNone); err != nil || &got[0] != &data[0] {
		t.Errorf("not compressed: %d bytes, error %v", len(got), err)
	}
}

// TestDecompressGuess: batches that are alike are guessed, at the cost of a
// single allocation, and one that compresses better or worse does no harm.
func TestDecompressGuess(t *testing.T) {
	d := testDecompressor(t, 1<<30)
	text, zeros := telemetry(100_000), make([]byte, 100_000)
	src := javaFrame(t, text)
	decompress := func(src, want []byte) {
		if got, err := d.Decompress(src, kgo.CodecLz4); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, error %v", len(got), err)
		}
	}
	decompress(src, text)
	if guess, err := d.guess(src); err != nil || guess < len(text) || guess > len(text)*9/8 {
		t.Errorf("guessed %d for %d bytes, error %v", guess, len(text), err)
	}
	if allocs := testing.AllocsPerRun(10, func() { decompress(src, text) }); allocs != 1 {
		t.Errorf("%v allocations for a batch", allocs)
	}
	small := javaFrame(t, zeros)
	decompress(small, zeros)
	if guess, err := d.guess(small); err != nil || guess != len(zeros) {
		t.Errorf("guessed %d for %d zeros, which are to be measured; error %v", guess, len(zeros), err)
	}
}

func TestDecompressConcurrently(t *testing.T) {
	t.Parallel()
	d := testDecompressor(t, 1<<30)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				want := telemetry(1 << (4 + (i+j)%14))
				if j%3 == 0 {
					clear(want)
				}
				got, err := d.Decompress(javaFrame(t, want), kgo.CodecLz4)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, error %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzDecompress compares with the library's Reader: frames, data as one
// block of a frame, and round trips.
func FuzzDecompress(f *testing.F) {
	_, linkedData := linkedFrame(f, 1, 3)
	compressed := []byte("\x10a\x01\x00\x1fa\x01\x00\xff\x10\x30abc\x03\x00\x50hello")
	for _, src := range [][]byte{
		nil, compressed, linkedData[:100], javaFrame(f, telemetry(1000)), javaFrame(f, make([]byte, 70_000)), javaFrame(f, noise(50)),
		frame(f, telemetry(1000), lz4.BlockChecksumOption(true), lz4.SizeOption(1000)),
		slices.Concat(javaFrame(f, []byte("hello")), []byte{0x5A, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 0}, javaFrame(f, []byte("hello, hello, hello, hello"))),
	} {
		f.Add(src)
	}
	like := testDecompressor(f, 16<<20)
	before := block([]byte("0123456789abcdef"), true)
	independent := header(f, 1<<6|lz4Independent|4<<lz4BlockSizeAt, -1)
	linked := header(f, 1<<6|4<<lz4BlockSizeAt, -1)
	f.Fuzz(func(t *testing.T, src []byte) {
		sameAsLibrary(t, like, src)
		if len(src) > 0 {
			sameAsLibrary(t, like, slices.Concat(independent, block(src, false), endMark))
			sameAsLibrary(t, like, slices.Concat(linked, before, block(src, false), before, endMark))
		}
		level := lz4.Fast
		if len(src)%2 == 1 {
			level = lz4.Level5
		}
		whole := frame(t, src, lz4.BlockSizeOption(lz4.Block64Kb), lz4.CompressionLevelOption(level))
		for guess, d := range decompressors(like) {
			if got, err := d.Decompress(whole, kgo.CodecLz4); err != nil || !bytes.Equal(got, src) {
				t.Fatalf("%s: round trip: %d bytes for %d, error %v", guess, len(got), len(src), err)
			}
		}
	})
}

func sameAsLibrary(t *testing.T, like *decompressor, src []byte) {
	t.Helper()
	limit := like.limit
	want, wantErr := io.ReadAll(io.LimitReader(lz4.NewReader(bytes.NewReader(src)), int64(limit)+1))
	differs := bytes.Contains(src, binary.LittleEndian.AppendUint32(nil, lz4MagicLegacy)) || // in the middle: refused
		errors.Is(wantErr, lz4.ErrInvalidHeaderChecksum) || errors.Is(wantErr, lz4.ErrInvalidBlockChecksum) ||
		errors.Is(wantErr, lz4.ErrInvalidFrameChecksum) ||
		// The library lets matches reach into the linked frame before.
		wantErr == nil && bytes.Count(src, binary.LittleEndian.AppendUint32(nil, lz4Magic)) > 1
	for guess, d := range decompressors(like) {
		got, err := d.Decompress(src, kgo.CodecLz4)
		switch {
		case len(got) > limit:
			t.Fatalf("%s: %d bytes, more than the limit", guess, len(got))
		case err == nil && wantErr == nil && !bytes.Equal(got, want):
			t.Fatalf("%s: got %d other bytes than the %d wanted", guess, len(got), len(want))
		case differs:
		case len(want) > limit && err == nil:
			t.Fatalf("%s: more than the limit, but no error", guess)
		case len(want) <= limit && (err == nil) != (wantErr == nil):
			t.Fatalf("%s: error %v, but the library says %v", guess, err, wantErr)
		}
	}
}

// BenchmarkDecompress decompresses batches as Java producers and franz-go make
// them, with kgo's own decompressor and with this package's.
func BenchmarkDecompress(b *testing.B) {
	for _, size := range []int{16 << 10, 256 << 10, 1 << 20} {
		data := telemetry(size)
		for producer, src := range map[string][]byte{"java": javaFrame(b, data), "franz-go": frame(b, data)} {
			d := testDecompressor(b, 1<<30)
			for _, by := range []struct {
				name string
				kgo.Decompressor
			}{{"kgo", d.kgo}, {"ours", d}} {
				b.Run(fmt.Sprintf("%s/%dKiB/%s", producer, size>>10, by.name), func(b *testing.B) {
					b.SetBytes(int64(size))
					b.ReportAllocs()
					for b.Loop() {
						if _, err := by.Decompress(src, kgo.CodecLz4); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/byte")
				})
			}
		}
	}
}
