package dlq

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// Kind is what a job does.
type Kind string

// The kinds.
const (
	KindRedrive Kind = "redrive"
	KindDrop    Kind = "drop"
)

// A job's name is its kind, something random, and a hash of the command that began
// it: redrive-k3v9ax-5d0c1f2a. It stands in every letter that the job has.
func newJob(k Kind, command string) string {
	return fmt.Sprintf("%s-%s-%s", k, strings.ToLower(rand.Text()[:6]), commandHash(command))
}

func commandHash(command string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(command))
	return fmt.Sprintf("%08x", h.Sum32())
}

// kindOf is empty for a name that is none of a job here.
func kindOf(job string) Kind {
	kind, _, _ := strings.Cut(job, "-")
	switch k := Kind(kind); k {
	case KindRedrive, KindDrop:
		return k
	}
	return ""
}

// beganBy says whether the command has begun the job.
func beganBy(job string, k Kind, command string) bool {
	return kindOf(job) == k && strings.HasSuffix(job, "-"+commandHash(command))
}

// flowName is the name of the job's own flow.
func (q *Queue) flowName(job string) string {
	name := q.flow
	_, id, _ := strings.Cut(job, "-")
	const longest = 100 // of a flow's name
	if suffix := ".redrive." + id; len(name)+len(suffix) <= longest {
		return name + suffix
	} else {
		return name[:longest-len(suffix)-9] + "." + commandHash(name) + suffix
	}
}

// JobView is a job that has letters.
type JobView struct {
	Job     string `json:"job"`
	Kind    Kind   `json:"kind,omitempty"`
	Letters int    `json:"letters"`
}

type jobList map[string]int

func (j jobList) add(l *flow.Letter) {
	if l.Job == "" {
		return
	}
	if _, ok := j[l.Job]; !ok {
		j[strings.Clone(l.Job)] = 0
	}
	j[l.Job]++
}

func (j jobList) views() []JobView {
	out := make([]JobView, 0, len(j))
	for job, n := range j {
		out = append(out, JobView{Job: job, Kind: kindOf(job), Letters: n})
	}
	slices.SortFunc(out, func(a, b JobView) int { return cmp.Compare(a.Job, b.Job) })
	return out
}

// UnfinishedError says that another job of the flow is not finished.
type UnfinishedError struct {
	Flow string
	JobView
}

func (e *UnfinishedError) Error() string {
	switch e.Kind {
	case KindRedrive:
		return fmt.Sprintf("a redrive of flow %s with other filters or edits is not finished: job %s has %d letters; "+
			"repeat the command that began it to go on, or give up what it has not done yet with penstock dlq redrive --release", e.Flow, e.Job, e.Letters)
	case KindDrop:
		return fmt.Sprintf("a drop of letters of flow %s with other filters is not finished: job %s has %d letters; "+
			"repeat the command that began it to go on, or keep them with penstock dlq drop --release", e.Flow, e.Job, e.Letters)
	}
	return fmt.Sprintf("job %s has taken %d letters of flow %s, and is none of this program: let it finish, or release them there", e.Job, e.Letters, e.Flow)
}
