package pages

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"path"
)

//go:embed assets
var files embed.FS

// kinds are the content types of what may be served, by its extension. A file of
// another kind is not served.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// Config is what the pages show and may do. Its functions are called by several
// requests at once.
type Config struct {
	// Websocket is where a notifier's websocket is now, ws://host:port/v1/ws, or
	// "" while there is none. The notifier has to accept the Origins of the pages.
	// Required.
	Websocket func() string
	// Token signs a subscriber's token for a user of a tenant, with the right to
	// subscribe to tenant:{t}, user:{t}:{u} and topic:{t}:*. Both names are 1 to
	// 128 bytes without control characters. Required.
	Token func(user, tenant string) (string, error)
	// Publish publishes a notification of class EVENT and returns its id. What an
	// error says is shown, so it must hold no secrets. Nil: the inbox has no form
	// for it.
	Publish func(ctx context.Context, n Notification) (id string, err error)
	// Places is what the first page lists, in its order. Nil: nothing.
	Places func() []Place
}

// Notification is one that a person publishes from the inbox.
type Notification struct {
	// Tenant is whose it is, Channel where it goes, a channel of that tenant in
	// its canonical spelling as far as the page knows.
	Tenant, Channel string
	// Data is valid JSON of at most 16 KiB.
	Data []byte
}

// Place is something with an address.
type Place struct {
	// Name is what it is called, Address how it is reached: a link if it begins
	// with http://. Note, which may be "", says what it is for.
	Name, Address, Note string
}

// Pages serves the pages. It keeps nothing between two requests.
type Pages struct {
	config Config
	mux    *http.ServeMux
	home   *template.Template
	busy   chan struct{} // a place for each POST under way
}

// New makes the pages.
func New(config Config) (*Pages, error) {
	if config.Websocket == nil || config.Token == nil {
		return nil, errors.New("pages: Websocket and Token are required")
	}
	home, err := template.ParseFS(files, "assets/home.html")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	p := &Pages{config: config, mux: http.NewServeMux(), home: home, busy: make(chan struct{}, maxPosts)}
	p.mux.HandleFunc("GET /{$}", p.serveHome)
	p.mux.HandleFunc("GET /inbox", func(w http.ResponseWriter, r *http.Request) { serveFile(w, "inbox.html") })
	p.mux.HandleFunc("GET /assets/{name}", func(w http.ResponseWriter, r *http.Request) {
		if name := r.PathValue("name"); path.Ext(name) != ".html" {
			serveFile(w, name)
			return
		}
		http.NotFound(w, r)
	})
	p.mux.HandleFunc("POST /session", p.post(p.session))
	if config.Publish != nil {
		p.mux.HandleFunc("POST /publish", p.post(p.publish))
	}
	return p, nil
}

// Origins are the origins that the pages have when they are served at an address,
// host:port of loopback: what a notifier has to accept.
func Origins(address string) []string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	var list []string
	for _, host := range hosts {
		list = append(list, "http://"+net.JoinHostPort(host, port))
	}
	return list
}

// ServeHTTP answers one request.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.protect(w.Header())
	if !hostAllowed(r) {
		http.Error(w, "this is only served as 127.0.0.1 or localhost", http.StatusMisdirectedRequest)
		return
	}
	p.mux.ServeHTTP(w, r)
}

// serveHome says where everything is.
func (p *Pages) serveHome(w http.ResponseWriter, _ *http.Request) {
	type row struct {
		Place
		Link bool
	}
	var rows []row
	if p.config.Places != nil {
		for _, place := range p.config.Places() {
			u, err := url.Parse(place.Address)
			rows = append(rows, row{Place: place, Link: err == nil && u.Scheme == "http" && u.Host != ""})
		}
	}
	var b bytes.Buffer // so that a template that fails is no half page
	if err := p.home.Execute(&b, map[string]any{"Places": rows, "Inbox": p.config.Websocket() != ""}); err != nil {
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kinds[".html"])
	w.Write(b.Bytes()) // a client that has gone needs no answer
}

// serveFile serves one of the embedded files.
func serveFile(w http.ResponseWriter, name string) {
	kind := kinds[path.Ext(name)]
	text, err := files.ReadFile("assets/" + name)
	if err != nil || kind == "" {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Write(text)
}
