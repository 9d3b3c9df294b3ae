package browser

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spillway/spillway/test/product"
)

// What is published appears at once, whoever published it: a person by the form, and a job.
func TestBrowserShowsWhatIsPublished(t *testing.T) {
	c, d := launch(t), dev(t)
	p := c.open(home(t, d) + "/")
	p.until(within, "the first page says where things are", `() => document.querySelectorAll('.places dt').length >= 4`)
	p.clean()
	p.click(`a[href="/inbox"]`)
	p.until(within, "the link leads to the inbox", `() => location.pathname === '/inbox'`)
	p.live()
	if got := p.refused(); len(got) != 0 {
		t.Errorf("channels of its own are refused: %v", got)
	}

	p.until(within, "there is a form", `() => !document.querySelector('#send').hidden`)
	p.typeInto("#title", "Typed by hand")
	p.typeInto("#text", "and sent with the form")
	p.click("#send .primary")
	p.shows(within, "Typed by hand")
	p.until(within, "the form says so", `() => document.querySelector('#sent').textContent === 'In the log'`)

	began := time.Now()
	notify(t, d, "demo", "tenant:demo", map[string]any{"title": "By a job", "rows": 1204})
	p.shows(within, "By a job")
	t.Logf("from the start of `job enqueue` to the page: %v", time.Since(began).Round(time.Millisecond))

	// The command that an empty inbox shows does what it says.
	var command string
	p.eval(&command, `() => document.querySelector('#command').textContent`)
	shell := exec.CommandContext(t.Context(), "sh", "-c", `spillway() { "$BINARY" "$@" --data-dir "$DATA"; }`+"\n"+command)
	shell.Env = append(os.Environ(), "BINARY="+product.Binary(t), "DATA="+d.Dir)
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	p.shows(within, "Hello from a job")

	// A topic that is followed later, by name; its name needs escapes in the channel.
	p.typeInto("#topic", "imports/ÄÖ 1")
	p.click("#add button")
	p.live()
	if got := p.refused(); len(got) != 0 {
		t.Errorf("refused: %v", got)
	}
	notify(t, d, "demo", "topic:demo:imports%2F%C3%84%C3%96%201", map[string]any{"title": "Of a topic"})
	p.shows(within, "Of a topic")
	p.until(within, "it is said to those who do not see it", `() => document.querySelector('#announce').textContent.includes('Of a topic')`)
	if got, want := p.titles(), []string{"Of a topic", "Hello from a job", "By a job", "Typed by hand"}; !slices.Equal(got, want) {
		t.Errorf("shown %q, want %q", got, want)
	}
	p.clean()
}

// refused are the channels that the notifier has refused.
func (p *tab) refused() []string {
	p.t.Helper()
	var list []string
	p.eval(&list, `() => [...document.querySelectorAll('#channels li')].filter((e) => e.querySelector('.refused')).map((e) => e.dataset.channel)`)
	return list
}

// The notifier dies. What was published before, meanwhile and afterwards is shown exactly once, with no gap; so it is after the page is loaded again.
func TestBrowserSurvivesANotifierThatDies(t *testing.T) {
	c, d := launch(t), dev(t)
	p := c.live(inbox(t, d, "acme", "alice"))
	var want []string
	tell := func(title string) {
		t.Helper()
		want = append(want, title)
		notify(t, d, "acme", "user:acme:alice", map[string]string{"title": title})
	}
	tell("before")
	p.shows(within, "before")

	for round := range 2 {
		tell(fmt.Sprintf("just before kill %d", round))
		killed := time.Now()
		pid := d.Signal("notifier", syscall.SIGKILL)
		for i := range 3 {
			tell(fmt.Sprintf("meanwhile %d.%d", round, i))
		}
		p.until(restarted, "the page noticed", `() => sockets.length > 1 || document.querySelector('#connection').dataset.state !== 'live'`)
		d.AwaitRestart("notifier", pid, restarted)
		tell(fmt.Sprintf("after %d", round))
		p.shows(restarted, want[len(want)-1])
		for _, title := range want {
			p.shows(restarted, title)
		}
		p.live()
		t.Logf("kill %d: all of it is shown %v later", round, time.Since(killed).Round(time.Millisecond))
	}
	p.exactly(want)

	p.load(inbox(t, d, "acme", "alice"))
	p.live()
	tell("after loading again")
	p.shows(within, "after loading again")
	p.exactly(want)
	p.clean()
}

// exactly fails the test unless each title is shown once and nothing else is, and no gap.
func (p *tab) exactly(want []string) {
	p.t.Helper()
	got := p.titles()
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		p.t.Errorf("shown\n%q, want\n%q", got, want)
	}
	var gaps []string
	p.eval(&gaps, `() => [...document.querySelectorAll('.gap')].map((e) => e.innerText)`)
	if len(gaps) != 0 {
		p.t.Errorf("gaps: %q", gaps)
	}
}

// Two tabs of one user both show everything; somebody else sees what is for all, and nothing that is not theirs.
func TestBrowserTabsAreIndependent(t *testing.T) {
	c, d := launch(t), dev(t)
	one, two := c.live(inbox(t, d, "acme", "alice")), c.live(inbox(t, d, "acme", "alice"))
	// Bob came by the other name of the page: an origin of its own, which the notifier accepts, too.
	bob, other := c.live(strings.Replace(inbox(t, d, "acme", "bob"), "127.0.0.1", "localhost", 1)), c.live(inbox(t, d, "other", "alice"))
	notify(t, d, "acme", "user:acme:alice", map[string]string{"title": "for Alice"})
	notify(t, d, "acme", "tenant:acme", map[string]string{"title": "for all of acme"})
	notify(t, d, "other", "tenant:other", map[string]string{"title": "for the others"})
	for p, want := range map[*tab][]string{
		one: {"for Alice", "for all of acme"}, two: {"for Alice", "for all of acme"}, bob: {"for all of acme"}, other: {"for the others"},
	} {
		for _, title := range want {
			p.shows(within, title)
		}
		p.exactly(want)
	}
	// One goes away, the other stays.
	if err := one.page.Close(); err != nil {
		t.Fatal(err)
	}
	notify(t, d, "acme", "user:acme:alice", map[string]string{"title": "for the tab that is left"})
	two.shows(within, "for the tab that is left")
}

// A token that ends is replaced in time, over the same socket and without a word to people.
func TestBrowserRefreshesItsToken(t *testing.T) {
	c, d := launch(t), dev(t)
	p := c.live(inbox(t, d, "acme", "alice"), `
		window.grants = 0;
		const real = window.fetch;
		window.fetch = async (...args) => {
			const response = await real(...args);
			if (args[0] !== '/session') return response;
			const answer = await response.json();
			return new Response(JSON.stringify({ ...answer, expires_in_ms: ++grants < 3 ? 4000 : answer.expires_in_ms }));
		};`)
	p.until(within, "two refreshes", `() => sent.filter((o) => o.t === 'refresh').length >= 2`)
	notify(t, d, "acme", "user:acme:alice", map[string]string{"title": "after the refresh"})
	p.shows(within, "after the refresh")
	var got struct {
		Sockets, Grants int
		State, Trouble  string
		Tokens          int
	}
	p.eval(&got, `() => ({ sockets: sockets.length, grants, state: document.querySelector('#connection').dataset.state, trouble: document.querySelector('#trouble').textContent,
		tokens: new Set(sent.filter((o) => o.auth).map((o) => o.t)).size })`)
	if got.Sockets != 1 || got.Grants != 3 || got.State != "live" || got.Trouble != "" || got.Tokens != 2 {
		t.Errorf("%+v", got)
	}
}
