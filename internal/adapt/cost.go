package adapt

import "math"

// cost estimates t(n) = a + b·n, in seconds; see the package comment.
type cost struct {
	a, b          float64
	pAA, pAB, pBB float64 // covariance of (a, b)
	noise         float64 // variance of t/(a+b·n)
	strange       int     // samples in a row that were left out, negative if they were below
}

const (
	// Before anything is known: a transaction of 2 ms, and a cost per record
	// for which n* is the default batch of 20,000; but each may be much more.
	firstFixed          = 2e-3
	firstMarginal       = (1 - overhead) / overhead * firstFixed / 20_000
	firstFixedSpread    = 0.3
	firstMarginalSpread = 3e-5

	// memory is in how many samples what they measure is forgotten.
	memory = 16
	// drift is the variance by which a alone may change from one batch to the
	// next, as a share of (a+b·n)².
	drift = 2e-5
	// strangeFrom is from how many standard deviations on a sample is left out,
	// and changedAfter how many of these in a row mean that the plant has changed.
	strangeFrom  = 4
	changedAfter = 3

	// absurd is by which factor one cost must exceed what a batch took to be
	// given up; scatter alone does not do that.
	absurd = 10

	noiseFirst, noiseMin, noiseMax = 0.3 * 0.3, 0.05 * 0.05, 0.7 * 0.7

	fixedMin, marginalMin, costMax = 1e-6, 1e-11, 1e4 // seconds
)

func newCost() cost {
	return cost{
		a: firstFixed, b: firstMarginal,
		pAA: firstFixedSpread * firstFixedSpread, pBB: firstMarginalSpread * firstMarginalSpread, noise: noiseFirst,
	}
}

// fixedSpread is the standard deviation of a.
func (c *cost) fixedSpread() float64 { return math.Sqrt(c.pAA) }

// observe learns from a batch of n records, n > 0, that took t seconds, t > 0.
func (c *cost) observe(n, t float64) {
	expected := c.a + c.b*n
	err := t - expected
	predicted := c.pAA + n*(2*c.pAB+n*c.pBB)
	scatter := c.noise * expected * expected
	if err*err > strangeFrom*strangeFrom*(predicted+scatter) {
		if (err < 0) != (c.strange < 0) {
			c.strange = 0
		}
		if err < 0 {
			c.strange--
		} else {
			c.strange++
		}
		if c.strange < changedAfter && c.strange > -changedAfter {
			return
		}
		// Either cost may have changed by all of it.
		c.pAA += err * err
		c.pBB += err * err / (n * n)
		predicted = c.pAA + n*(2*c.pAB+n*c.pBB)
	} else {
		// What remains of the error when the doubt about a and b is taken off.
		relative := max(0, err*err-predicted) / (expected * expected)
		c.noise += (min(relative, noiseMax) - c.noise) / (4 * memory)
		c.noise = max(c.noise, noiseMin)
	}
	c.strange = 0

	// The scatter is that of t as it should have been, and no less.
	scatter = c.noise * min(expected*expected, t*t)
	ka, kb := (c.pAA+n*c.pAB)/(predicted+scatter), (c.pAB+n*c.pBB)/(predicted+scatter)
	c.a += ka * err
	c.b += kb * err
	// The update takes ppᵀ/(predicted+scatter) off P, p = P·(1, n). Forgetting
	// then raises the variance of a+b·n by 1/(memory-1) along the same
	// vector, which leaves what is known about anything else as it is.
	forget := scatter / (max(predicted, 1e-9*scatter) * (memory - 1))
	scale := (1 - forget) * (predicted + scatter)
	c.pAA -= ka * ka * scale
	c.pAB -= ka * kb * scale
	c.pBB -= kb * kb * scale
	if c.a > absurd*t || c.b*n > absurd*t {
		// Neither cost can be more than both: what was learnt before is nonsense.
		c.a, c.b = t/2, t/2/n
		c.pAA, c.pAB, c.pBB = t*t, 0, t*t/(n*n)
	}
	c.wander(n, predicted/(predicted+scatter)*err)
	c.bound()
}

// wander makes what is known about a alone old: the costs may change in a way
// that batches of one size do not show, and probably have where a+b·n, for
// this n, has just moved. The variance of a+b·n stays as it is.
func (c *cost) wander(n, moved float64) {
	t := c.a + c.b*n
	bn := c.b * n / t
	q := bn * bn * (drift*t*t + moved*moved)
	c.pAA += q
	c.pAB -= q / n
	c.pBB += q / (n * n)
}

// bound keeps both costs positive: an estimate that would leave the range moves
// along its edge to what is most likely there; and P positive definite.
func (c *cost) bound() {
	c.pAA = min(max(c.pAA, sure(c.a, fixedMin)), costMax*costMax)
	c.pBB = min(max(c.pBB, sure(c.b, marginalMin)), costMax*costMax)
	most := 0.999 * math.Sqrt(c.pAA*c.pBB)
	c.pAB = min(max(c.pAB, -most), most)
	if c.a < fixedMin {
		c.b += c.pAB / c.pAA * (fixedMin - c.a)
		c.a = fixedMin
	}
	if c.b < marginalMin {
		c.a += c.pAB / c.pBB * (marginalMin - c.b)
		c.b = marginalMin
	}
	c.a = min(max(c.a, fixedMin), costMax)
	c.b = min(max(c.b, marginalMin), costMax)
}

// sure is the least variance of an estimate v that is at least low: one in a thousand.
func sure(v, low float64) float64 {
	v = 1e-3 * max(v, low)
	return v * v
}
