package slab

import "testing"

func TestArraysAreUsedAgain(t *testing.T) {
	p := Pool[int]{Max: 1000}
	a := append(p.Get(100), 1, 2, 3)
	if cap(a) < 100 {
		t.Fatalf("room for %d, want 100", cap(a))
	}
	p.Put(a)
	b := p.Get(70)
	if cap(b) < 70 || len(b) != 0 || &b[:1][0] != &a[0] {
		t.Error("an array that is large enough is not used again")
	}
	if c := p.Get(70); &c[:1][0] == &a[0] {
		t.Error("one array is in use twice")
	}
	if n := testing.AllocsPerRun(100, func() { p.Put(p.Get(500)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	p := Pool[int]{Max: 1000}
	var all [][]int
	for n := 1; n < 1<<18; n *= 2 {
		all = append(all, p.Get(n), p.Get(n+1))
	}
	for _, s := range all {
		p.Put(s)
	}
	kept := 0
	for _, free := range p.free {
		for _, s := range free {
			kept += cap(s)
		}
	}
	if kept > 1000 || kept != p.kept || kept == 0 {
		t.Errorf("%d elements kept, counted as %d", kept, p.kept)
	}
	p.Put(make([]int, 0, 100)) // not ours
	if p.Get(1<<20) == nil {
		t.Error("nothing for many")
	}
}
