//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package sqlite

// claim is nothing on systems without flock: there the owner epoch alone
// fences a second process.
type claim struct{}

type errClaimed struct{ holder string }

func (e *errClaimed) Error() string { return "held by " + e.holder }

func takeClaim(string) (*claim, error) { return &claim{}, nil }

func (c *claim) release() {}
