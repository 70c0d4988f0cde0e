package sim

// bug is a bug that is planted in the world.
type bug struct {
	atLeastOnce *bool // the guarantee with which it shows; nil: either

	anyOwner, anyOffset bool // the swap does not compare them
	claimSpares         bool // a claim leaves the predecessor's transaction alone
	positionFirst       bool // the position is durable before the data is
	positionForgotten   bool // now and then the data is durable and the position is not
	deadOutside         bool // dead letters are durable before the transaction is
	guess               bool // a commit whose answer is lost is taken for done
	seekIgnored         bool
	staleFetch          bool // a partition that comes back goes on with what was fetched before
	commitAhead         bool // the group is told what was delivered
}
