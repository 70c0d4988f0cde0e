package kafka

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// decompressor decompresses the batches that are fetched. lz4 it does itself,
// the other codecs it leaves to kgo.
//
// kgo streams lz4 through buffers of the frame's block size (4 MiB in many
// clients, one compressed and one not, for each batch at work) into a buffer
// that grows, and copies the result out of it. A batch is in memory as a whole,
// though: so each block is decompressed straight into its place in one slice,
// and nothing else is allocated. How large that slice has to be is
//   - what the frame says, which few producers let it say; else
//   - a guess from the batches of about the same size before, else
//   - measured: the lengths of a block's sequences are added up without copying
//     anything, which takes a fifth to a quarter of the time of decompressing.
//     That would be exact always, but as slow as kgo.
//
// A guess that was too small is measured as well, and the slice replaced; one
// that was much too large is trimmed, for the records stay in the slice for as
// long as the flow holds them. Only what is at most maxGuess times the input is
// believed or guessed, and nothing beyond the limit is allocated: a batch made
// to harm costs little more than its own length.
//
// Neither the header's checksum nor those of blocks and content are verified:
// kgo checks the CRC of a batch, which covers all of its compressed bytes. (The
// header's would refuse what the first Java clients wrote, who got it wrong.)
//
// It is safe for concurrent use.
type decompressor struct {
	limit int              // bytes of a batch, decompressed
	kgo   kgo.Decompressor // for all else, with the same limit
	// ratios of batches to their compressed bytes, in 1/ratioUnit, by the binary
	// digits of the latter's number: small batches compress less than large ones.
	// 0 is not known. Updates that overtake each other do no harm.
	ratios [33]atomic.Int64
}

var _ kgo.Decompressor = (*decompressor)(nil)

const (
	// maxGuess bounds what is allocated on a guess, in sizes of the input. Where
	// batches compress better than that, measuring them costs little.
	maxGuess  = 4
	ratioUnit = 1 << 10
)

// newDecompressor makes one with the limit of cl. kgo bounds a decompressor of
// its own only where it makes it itself, for a client: so a client's is used.
func newDecompressor(cl *kgo.Client) *decompressor {
	d := &decompressor{}
	d.limit, _ = cl.OptValue(kgo.MaxDecompressBatchBytes).(int)
	d.kgo, _ = cl.OptValue(kgo.WithDecompressor).(kgo.Decompressor)
	return d
}

// Decompress implements kgo.Decompressor.
func (d *decompressor) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	if codec != kgo.CodecLz4 || isLegacyLZ4(src) {
		return d.kgo.Decompress(src, codec)
	}
	size, err := d.guess(src)
	if err != nil {
		return nil, err
	}
	dst, err := d.decompress(make([]byte, size), src)
	if err != nil {
		return nil, err
	}
	d.learn(len(src), len(dst))
	if cap(dst)-len(dst) > len(dst)/8 {
		return bytes.Clone(dst), nil
	}
	return slices.Clip(dst), nil
}

// guess returns how many bytes src probably holds, or surely.
func (d *decompressor) guess(src []byte) (int, error) {
	f, _, err := nextLZ4Frame(src)
	if err != nil {
		return 0, err
	}
	most := min(maxGuess*len(src), d.limit)
	if f.flags&lz4ContentSize != 0 && f.contentSize <= uint64(most) { //nolint:gosec // not negative
		return int(f.contentSize), nil //nolint:gosec // at most an int
	}
	// One part in 32 more than the average is enough for most.
	if r := d.ratio(len(src)).Load(); r != 0 && r < maxGuess*ratioUnit {
		return min(int(int64(len(src))*(r+r/32)/ratioUnit), most), nil
	}
	return measureLZ4(src, d.limit)
}

// learn notes how a batch compressed. The ratio rises at once, and falls slowly:
// a guess that is a little too large costs less than one that is too small.
func (d *decompressor) learn(compressed, size int) {
	if compressed == 0 {
		return
	}
	ratio := d.ratio(compressed)
	is, was := int64(size)*ratioUnit/int64(compressed)+1, ratio.Load()
	if is < was {
		is = was - (was-is+15)/16
	}
	if is != was {
		ratio.Store(is)
	}
}

func (d *decompressor) ratio(compressed int) *atomic.Int64 {
	return &d.ratios[min(bits.Len(uint(compressed)), len(d.ratios)-1)] //nolint:gosec // not negative
}

// decompress decompresses the frames of src to the begin of dst, which must not
// be nil (the library's assembly counts on that), or to a larger slice if need be.
func (d *decompressor) decompress(dst, src []byte) ([]byte, error) {
	all, n := src, 0
	for {
		f, rest, err := nextLZ4Frame(src)
		if err != nil {
			return nil, err
		}
		if f == (lz4Frame{}) {
			return dst[:n], nil
		}
		start := n
		for src = rest; ; {
			b, rest, err := f.next(src)
			if err != nil {
				return nil, err
			}
			src = rest
			if b.end {
				break
			}
			m, err := f.decode(b, dst, start, n)
			if err != nil && len(dst)-n < f.blockSize { // perhaps for that
				if dst, err = d.grow(dst, n, all, err); err == nil {
					m, err = f.decode(b, dst, start, n)
				}
			}
			if err != nil {
				return nil, err
			}
			n += m
		}
		if got := uint64(n - start); f.flags&lz4ContentSize != 0 && got != f.contentSize { //nolint:gosec // n only grows
			return nil, fmt.Errorf("%w: %d in place of %d bytes", lz4.ErrInvalidContentSize, got, f.contentSize)
		}
	}
}

// grow replaces dst, of which n bytes are used, by a slice that holds all of
// src; if dst could hold that, the block is broken and err the reason.
func (d *decompressor) grow(dst []byte, n int, src []byte, err error) ([]byte, error) {
	size, sizeErr := measureLZ4(src, d.limit)
	if sizeErr != nil {
		return nil, sizeErr
	}
	if size <= len(dst) {
		return nil, err
	}
	grown := make([]byte, size)
	copy(grown, dst[:n])
	return grown, nil
}

// Magic numbers that a frame begins with.
const (
	lz4Magic       = 0x184D2204
	lz4MagicLegacy = 0x184C2102 // of the format before frames, which Kafka never used
	lz4MagicSkip   = 0x184D2A00 // to be skipped; the last byte is any (the format allows 5x)
)

func isLegacyLZ4(src []byte) bool {
	return len(src) >= 4 && binary.LittleEndian.Uint32(src) == lz4MagicLegacy
}

// Bits of a frame descriptor's two bytes, FLG (low) and BD (high).
const (
	lz4DictID       = 1 << 0
	lz4ContentSum   = 1 << 2
	lz4ContentSize  = 1 << 3
	lz4BlockSum     = 1 << 4
	lz4Independent  = 1 << 5
	lz4Version      = 3 << 6 // must be 1
	lz4BlockSizeAt  = 12     // three bits: 4 to 7
	lz4Reserved     = 1<<1 | 0xF<<8 | 1<<15
	lz4MinBlockSize = 64 << 10
	// lz4Window is how far back a match can reach.
	lz4Window = 64 << 10
)

// lz4Frame is the descriptor of a frame.
type lz4Frame struct {
	flags       int
	blockSize   int    // of the largest block, decompressed
	contentSize uint64 // if flags has it
}

// lz4Block is a block of a frame, or its end.
type lz4Block struct {
	data   []byte
	stored bool // not compressed
	end    bool
}

// measureLZ4 returns how many bytes the frames of src hold.
func measureLZ4(src []byte, limit int) (int, error) {
	total := 0
	for {
		f, rest, err := nextLZ4Frame(src)
		if err != nil || f == (lz4Frame{}) {
			return total, err
		}
		for src = rest; ; {
			b, rest, err := f.next(src)
			if err != nil {
				return 0, err
			}
			src = rest
			if b.end {
				break
			}
			n, err := b.size()
			if err != nil {
				return 0, err
			}
			if n > f.blockSize {
				return 0, fmt.Errorf("%w: a block of %d bytes in a frame of blocks of %d", lz4.ErrInvalidSourceShortBuffer, n, f.blockSize)
			}
			if total += n; total > limit {
				return 0, fmt.Errorf("lz4: %w (%d)", kgo.ErrMaxDecompress, limit)
			}
		}
	}
}

// nextLZ4Frame reads the descriptor of the frame that src begins with, after
// frames to be skipped, and returns what follows it. The frame is zero at the end.
func nextLZ4Frame(src []byte) (lz4Frame, []byte, error) {
	for len(src) > 0 {
		if len(src) < 4 {
			return lz4Frame{}, nil, truncatedLZ4("a frame's magic number")
		}
		magic := binary.LittleEndian.Uint32(src)
		src = src[4:]
		switch {
		case magic == lz4Magic:
			return parseLZ4Frame(src)
		case magic&^0xFF != lz4MagicSkip:
			return lz4Frame{}, nil, fmt.Errorf("%w: %#08x is not the magic number of one", lz4.ErrInvalidFrame, magic)
		case len(src) < 4 || uint64(len(src)-4) < uint64(binary.LittleEndian.Uint32(src)): //nolint:gosec // not negative
			return lz4Frame{}, nil, truncatedLZ4("a frame to be skipped")
		}
		src = src[4+int(binary.LittleEndian.Uint32(src)):]
	}
	return lz4Frame{}, nil, nil
}

// parseLZ4Frame reads the descriptor that follows a magic number.
func parseLZ4Frame(src []byte) (lz4Frame, []byte, error) {
	const descriptor = "a frame's descriptor"
	if len(src) < 3 {
		return lz4Frame{}, nil, truncatedLZ4(descriptor)
	}
	f := lz4Frame{flags: int(binary.LittleEndian.Uint16(src))}
	size := f.flags >> lz4BlockSizeAt & 7
	switch {
	case f.flags&lz4Version != 1<<6:
		return lz4Frame{}, nil, fmt.Errorf("%w: version %d", lz4.ErrInvalidFrameDescriptor, f.flags&lz4Version>>6)
	case f.flags&lz4Reserved != 0:
		return lz4Frame{}, nil, fmt.Errorf("%w: reserved bits %#04x are set", lz4.ErrInvalidFrameDescriptor, f.flags&lz4Reserved)
	case f.flags&lz4DictID != 0:
		return lz4Frame{}, nil, fmt.Errorf("%w: the frame needs a dictionary", lz4.ErrInvalidFrameDescriptor)
	case size < 4:
		return lz4Frame{}, nil, fmt.Errorf("%w: block size %d", lz4.ErrInvalidFrameDescriptor, size)
	}
	f.blockSize = lz4MinBlockSize << (2 * (size - 4))
	src = src[2:]
	if f.flags&lz4ContentSize != 0 {
		if len(src) < 9 {
			return lz4Frame{}, nil, truncatedLZ4(descriptor)
		}
		f.contentSize = binary.LittleEndian.Uint64(src)
		src = src[8:]
	}
	return f, src[1:], nil // after the header's checksum
}

// next reads the block that src begins with, or the frame's end, and returns
// what follows it.
func (f *lz4Frame) next(src []byte) (lz4Block, []byte, error) {
	if len(src) < 4 {
		return lz4Block{}, nil, truncatedLZ4("a block's size")
	}
	word := binary.LittleEndian.Uint32(src)
	src = src[4:]
	b := lz4Block{stored: word>>31 != 0, end: word == 0}
	size, sums := int(word&(1<<31-1)), 0
	switch {
	case size > f.blockSize:
		return lz4Block{}, nil, fmt.Errorf("%w: a block of %d bytes in a frame of blocks of %d", lz4.ErrInvalidFrame, size, f.blockSize)
	case b.end && f.flags&lz4ContentSum != 0, !b.end && f.flags&lz4BlockSum != 0:
		sums = 4
	}
	if len(src) < size+sums {
		return lz4Block{}, nil, truncatedLZ4("a block")
	}
	b.data = src[:size]
	return b, src[size+sums:], nil
}

// size returns how many bytes the block holds.
func (b *lz4Block) size() (int, error) {
	if b.stored {
		return len(b.data), nil
	}
	n, ok := scanLZ4(b.data)
	if !ok {
		return 0, fmt.Errorf("%w: a block ends within a sequence", lz4.ErrInvalidSourceShortBuffer)
	}
	return n, nil
}

// decode decompresses a block of a frame that begins at dst[start] to dst[n:],
// and returns the block's size.
func (f *lz4Frame) decode(b lz4Block, dst []byte, start, n int) (int, error) {
	to := dst[n:min(n+f.blockSize, len(dst))]
	switch {
	case b.stored && len(b.data) > len(to):
		return 0, lz4.ErrInvalidSourceShortBuffer
	case b.stored:
		return copy(to, b.data), nil
	case f.flags&lz4Independent != 0:
		return lz4.UncompressBlock(b.data, to)
	default:
		return lz4.UncompressBlockWithDict(b.data, to, dst[max(start, n-lz4Window):n])
	}
}

// scanLZ4 returns how many bytes a compressed block holds: it adds up the
// lengths in its sequences (a token with two lengths of four bits, more of the
// first length, literals, two bytes of distance, more of the second length; the
// last sequence ends after its literals). The sum stays below 256 times len(b).
func scanLZ4(b []byte) (n int, ok bool) {
	const more = 15 // in the token: bytes follow that add to the length, the last one is below 255
	for i := 0; i < len(b); {
		token := b[i]
		i++
		length := int(token >> 4)
		if length == more {
			for {
				if i >= len(b) {
					return 0, false
				}
				c := b[i]
				i++
				length += int(c)
				if c != 255 {
					break
				}
			}
		}
		n += length
		i += length
		if i >= len(b) {
			return n, i == len(b)
		}
		i += 2
		length = int(token & 15)
		n += length + 4
		if length == more {
			for {
				if i >= len(b) {
					return 0, false
				}
				c := b[i]
				i++
				n += int(c)
				if c != 255 {
					break
				}
			}
		}
	}
	return n, true
}

func truncatedLZ4(what string) error {
	return fmt.Errorf("lz4: the data end within %s: %w", what, io.ErrUnexpectedEOF)
}
