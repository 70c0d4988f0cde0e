package flow

// Pause stops reading: no Source.Read begins any more, and one under way is
// interrupted. What was delivered is written and committed, which Pause does not wait
// for: Status.Buffered is 0 then. The flow stays a member of its group and keeps its
// partitions; rebalances, resets and seeks go on, and a failure that only a Read can find is
// found after Resume. It may be called at any time, before Run too (the flow then starts
// without reading), and again.
func (f *Flow) Pause() { f.setPaused(true) }

// Resume ends a Pause.
func (f *Flow) Resume() { f.setPaused(false) }

func (f *Flow) setPaused(paused bool) {
	f.mu.Lock()
	same := f.paused == paused
	f.paused = paused
	if paused && !same && f.wakeRead != nil {
		f.wakeRead()
	}
	f.mu.Unlock()
	switch {
	case same:
		return
	case paused:
		f.log.Info("paused: nothing is read until the flow is resumed; what was read is written")
	default:
		f.log.Info("resumed")
	}
	f.roomChanged()
}
