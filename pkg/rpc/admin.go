package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// Check is one condition of being ready, as /readyz prints it.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // for people; nothing secret
}

// NewCheck is the check of a condition that err says is not met; nil: it is.
func NewCheck(name string, err error) Check {
	if err != nil {
		return Check{Name: name, Detail: err.Error()}
	}
	return Check{Name: name, OK: true}
}

// AdminConfig is one admin listener.
type AdminConfig struct {
	// Listener must be local.
	Listener net.Listener
	// Checks answers /readyz, within ctx; none means ready. It is called for
	// each request and must be cheap.
	Checks func(ctx context.Context) []Check
	// Metrics answers /metrics; nil answers 404.
	Metrics http.Handler
	// Log gets the errors of the HTTP server.
	Log *slog.Logger
}

// Admin is the HTTP listener for probes and Prometheus, apart from the
// service's port:
//
//	GET /livez    200 as long as the process runs
//	GET /readyz   200 or 503, with one JSON line a check
//	GET /metrics  the Prometheus text, where it is on
type Admin struct {
	listener net.Listener
	server   *http.Server
}

// Bounds of one probe.
const (
	adminTimeout = 5 * time.Second
	adminHeaders = 16 << 10
	adminConns   = 64
)

// NewAdmin makes an admin listener; it does no I/O and starts nothing. It
// refuses a listener that other machines reach.
func NewAdmin(cfg AdminConfig) (*Admin, error) {
	if cfg.Listener == nil {
		return nil, errors.New("admin: no listener")
	}
	if err := checkListener(cfg.Listener); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, cfg.Checks) })
	if cfg.Metrics != nil {
		mux.Handle("GET /metrics", cfg.Metrics)
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Admin{listener: cfg.Listener, server: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: adminTimeout, ReadTimeout: adminTimeout, WriteTimeout: 2 * adminTimeout, IdleTimeout: time.Minute,
		MaxHeaderBytes: adminHeaders,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

func ready(w http.ResponseWriter, r *http.Request, checks func(context.Context) []Check) {
	ctx, cancel := context.WithTimeout(r.Context(), adminTimeout)
	defer cancel()
	var all []Check
	if checks != nil {
		all = checks(ctx)
	}
	code := http.StatusOK
	for _, c := range all {
		if !c.OK {
			code = http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	lines := json.NewEncoder(w)
	for _, c := range all {
		if lines.Encode(c) != nil {
			return // the prober went away
		}
	}
}

// Run serves until ctx ends, lets open probes finish within a second and
// returns nil. The error is that of a listener that failed earlier.
func (a *Admin) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(netutil.LimitListener(a.listener, adminConns)) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin on %s: %w", a.listener.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if a.server.Shutdown(stop) != nil {
		a.server.Close()
	}
	<-served
	return nil
}
