package core

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden transcripts anew")

// transcript runs a script of commands, one a line, and writes under each what the engine decided.
type transcript struct {
	e      *Engine
	now    time.Time
	out    strings.Builder
	tokens map[string]Token // by job
	jobs   map[string]*Job
	names  map[JobID]string
	next   uint64
}

func (x *transcript) say(format string, args ...any) { fmt.Fprintf(&x.out, "  "+format+"\n", args...) }

func (x *transcript) command(line string) error {
	f := strings.Fields(line)
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	num := func(i int) int64 { n, _ := strconv.ParseInt(arg(i), 10, 64); return n }
	switch f[0] {
	case "attach":
		x.e.Attach(x.now, int32(num(1)), num(2))
	case "detach":
		x.e.Detach(int32(num(1)))
	case "join": // worker slots type…
		x.e.Join(x.now, Worker{ID: arg(1), Concurrency: int32(num(2)), Types: f[3:]})
		x.e.Credit(x.now, arg(1), int32(num(2)), 0)
	case "leave":
		x.e.Leave(x.now, arg(1))
	case "credit":
		x.e.Credit(x.now, arg(1), int32(num(2)), num(3))
	case "ticket":
		x.e.Ticket(x.now, arg(1), int32(num(2)))
	case "offer": // job source/tenant type priority
		source, tenant, _ := strings.Cut(arg(2), "/")
		x.next++
		j := &Job{Source: source, Tenant: tenant, Type: arg(3), Size: 100, Home: Home{Topic: TopicSpill, Offset: int64(x.next)}}
		for p, name := range priorityNames {
			if name == arg(4) {
				j.Priority = Priority(p)
				j.Home.Topic = Topic(p)
			}
		}
		if old := x.jobs[arg(1)]; old != nil {
			j.ID = old.ID
		} else {
			binary.BigEndian.PutUint64(j.ID[8:], x.next)
			j.ID[6] = 7 << 4
		}
		v := x.e.Offer(x.now, j)
		x.say("%s %s", [...]string{"", "queue", "spill", "expire", "duplicate", "supersede", "known", "foreign"}[v.Kind], v.Reason)
		if v.Kind == Queue {
			x.jobs[arg(1)], x.names[j.ID] = j, arg(1)
		}
	case "next":
		for {
			a := x.e.Next(x.now)
			switch a.Kind {
			case Idle:
				x.say("idle")
				return nil
			case Grant:
				name := x.names[a.Lease.Job.ID]
				x.tokens[name] = a.Lease.Token
				how := "open"
				if a.Lease.Ticket {
					how = "ticket"
				}
				x.say("grant %s to %s: attempt %d token %d.%d tag %.3f %s, bid %s", name, a.Worker, a.Lease.Attempt,
					a.Lease.Token.Epoch, a.Lease.Token.Counter, a.Lease.Tag, how, a.Bid)
			case Demand:
				x.say("demand at %s: %s", a.Worker, a.Bid)
			case Pass:
				x.say("pass %d to %s", a.N, a.Worker)
			}
		}
	case "done": // worker job result [delay]
		kinds := map[string]ResultKind{"success": Success, "retry": Retry, "permanent": Permanent, "snooze": Snooze}
		d, _ := time.ParseDuration(arg(4))
		j := x.jobs[arg(2)]
		x.settlement(x.e.Done(x.now, arg(1), Result{Token: x.tokens[arg(2)], JobID: j.ID, Kind: kinds[arg(3)], Delay: d}))
	case "settled":
		x.e.Settled(x.now, x.jobs[arg(1)].ID, x.tokens[arg(1)])
	case "return":
		x.e.Return(x.now, arg(1), x.tokens[arg(2)], NotStarted, int32(num(3)), num(4))
	case "started":
		x.e.Started(x.now, arg(1), []Token{x.tokens[arg(2)]})
	case "renew":
		_, lost := x.e.Renew(x.now, arg(1), []Token{x.tokens[arg(2)]})
		x.say("lost %d", len(lost))
	case "moved":
		x.next++
		x.e.Moved(x.now, x.jobs[arg(1)].ID, Home{Topic: TopicSpill, Offset: int64(x.next)})
	case "wait":
		d, err := time.ParseDuration(arg(1))
		if err != nil {
			return err
		}
		for end := x.now.Add(d); x.now.Before(end); {
			x.now = x.now.Add(min(10*time.Millisecond, end.Sub(x.now)))
			c := x.e.Tick(x.now)
			for _, s := range c.Settlements {
				x.settlement(s)
			}
			for _, j := range c.Moves {
				x.say("move %s", x.names[j.ID])
			}
			for _, r := range c.Revokes {
				x.say("revoke at %s: %d.%d reason %d, only if not started %v", r.Worker, r.Token.Epoch, r.Token.Counter, r.Reason, r.OnlyIfNotStarted)
			}
		}
	case "apply": // [hold|block|demote:priority scope]… [quota:source:rate:burst:concurrency]…
		c := x.e.control.Control
		c.Sequence++
		c.Switches = nil
		for _, word := range f[1:] {
			p := strings.Split(word, ":")
			switch p[0] {
			case "hold", "block":
				c.Switches = append(c.Switches, Switch{Verb: Hold, Scope: scope(p[1])})
			case "demote":
				c.Switches = append(c.Switches, Switch{Verb: Demote, To: Bulk, Scope: scope(p[1])})
			case "quota":
				policy := Policy{MaxPriority: Critical}
				if rate, err := strconv.ParseFloat(p[2], 64); err == nil {
					policy.Quota.Rate = &rate
				}
				if burst, err := strconv.Atoi(p[3]); err == nil {
					n := int32(burst)
					policy.Quota.Burst = &n
				}
				if most, err := strconv.Atoi(p[4]); err == nil {
					n := int32(most)
					policy.Quota.Concurrency = &n
				}
				sources := map[string]Policy{p[1]: policy}
				for k, v := range c.Sources {
					if k != p[1] {
						sources[k] = v
					}
				}
				c.Sources = sources
			}
		}
		ch, err := x.e.Apply(x.now, c)
		x.say("held %v resumed %v ceilings %v quotas %v %v", ch.Held, ch.Resumed, ch.Ceilings, ch.Quotas, err)
	case "undecided":
		x.say("%d undecided, %d running", len(x.e.Undecided(scope(arg(1)))), x.e.Running(scope(arg(1))))
	case "marks":
		for _, m := range x.e.Spilling() {
			x.say("mark %s/%s %s held %v", m.Source, m.Tenant, m.Type, m.Held)
		}
	default:
		return fmt.Errorf("unknown command %q", line)
	}
	return nil
}

func (x *transcript) settlement(s Settlement) {
	if s.Kind == Refused || s.Kind == Repeated {
		x.say("%s %s", [...]string{"refused", "repeated"}[s.Kind], s.Reason)
		return
	}
	kind := [...]string{Succeeded: "succeeded", Dead: "dead", Expired: "expired", Retrying: "retrying"}[s.Kind]
	x.say("settle %s %s %s: attempt %d counted %v, again in %v", x.names[s.Job.ID], kind, s.Reason, s.Attempt.Number, s.Attempt.Counted,
		max(0, s.RetryAt.Sub(x.now)).Round(time.Millisecond))
}

func (s Scope) String() string {
	return [...]string{"", s.Source, "/" + s.Tenant, s.Source + "/" + s.Tenant}[s.Kind]
}

func (b Bid) String() string {
	if b.N == 0 {
		return "none"
	}
	return fmt.Sprintf("%d × rank %d %s %.3f", b.N, b.Rank, b.Priority, b.Tag)
}

// scope reads "source", "/tenant" or "source/tenant".
func scope(s string) Scope {
	source, tenant, both := strings.Cut(s, "/")
	switch {
	case !both:
		return Scope{Kind: ScopeSource, Source: source}
	case source == "":
		return Scope{Kind: ScopeTenant, Tenant: tenant}
	}
	return Scope{Kind: ScopeFlow, Source: source, Tenant: tenant}
}

// TestTranscripts replays testdata/*.txt: lines that start with a letter are commands, those that start with # comments,
// what is indented is what the engine answered.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			x := &transcript{
				e: New(Config{Seed: 1}), now: origin, tokens: map[string]Token{}, jobs: map[string]*Job{}, names: map[JobID]string{},
			}
			for in := bufio.NewScanner(strings.NewReader(string(want))); in.Scan(); {
				line := in.Text()
				if strings.HasPrefix(line, " ") {
					continue
				}
				x.out.WriteString(line + "\n")
				if line == "" || line[0] == '#' {
					continue
				}
				if err := x.command(line); err != nil {
					t.Fatal(err)
				}
				if err := audit(x.e); err != nil {
					t.Fatalf("after %q: %v", line, err)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(x.out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got := x.out.String(); got != string(want) {
				t.Errorf("transcript differs; run with -update and read the difference\n%s", got)
			}
		})
	}
}
