package pages

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// hosts are the names that the pages have.
var hosts = []string{"127.0.0.1", "localhost"}

// pageHeader has to be in every POST. A page of another origin can send it only
// after a preflight, and none is granted.
const pageHeader = "Spillway-Page"

// hostAllowed reports whether a request is for this server under one of its own
// names and its own port. A name that somebody else rebinds to loopback is
// neither.
func hostAllowed(r *http.Request) bool {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil || !slices.Contains(hosts, host) {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false // not served by net/http: nobody knows the port
	}
	_, own, err := net.SplitHostPort(local.String())
	return err == nil && port == own
}

// ownPage reports whether a POST comes from a script of these pages: the header
// that others cannot send, this very origin, and no browser that says otherwise.
func ownPage(r *http.Request) bool {
	site := r.Header.Values("Sec-Fetch-Site")
	return r.Header.Get(pageHeader) == "1" &&
		slices.Equal(r.Header.Values("Origin"), []string{"http://" + r.Host}) &&
		(len(site) == 0 || slices.Equal(site, []string{"same-origin"}))
}

// protect sets the headers that every answer has.
func (p *Pages) protect(h http.Header) {
	connect := "'self'"
	if origin := socketOrigin(p.config.Websocket()); origin != "" {
		connect += " " + origin
	}
	h.Set("Content-Security-Policy", strings.Join([]string{
		"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src " + connect,
		"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
	}, "; "))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
}

// socketOrigin is the origin of a websocket's address, "" unless it is one.
func socketOrigin(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" || strings.ContainsAny(u.Host, " ;,'\"") {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
