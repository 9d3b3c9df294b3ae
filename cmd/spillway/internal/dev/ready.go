package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
)

const (
	// probeEvery is how often a service that is not ready yet is asked again:
	// start-up is measured in seconds.
	probeEvery = 20 * time.Millisecond
	// probeTimeout bounds one question.
	probeTimeout = time.Second
	// probeBytes bounds an answer.
	probeBytes = 64 << 10
)

// awaitReady asks a service's admin listener until it is ready or ctx ends,
// and says then what it was waiting for.
func awaitReady(ctx context.Context, s service) error {
	client := &http.Client{Timeout: probeTimeout}
	defer client.CloseIdleConnections()
	for {
		why := probe(ctx, client, s.admin)
		if why == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %s", s.name, why)
		case <-time.After(probeEvery):
		}
	}
}

// probe returns "" for a ready service, else the reason for people.
func probe(ctx context.Context, client *http.Client, admin string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, probeBytes))
	switch {
	case err != nil:
		return err.Error()
	case resp.StatusCode == http.StatusOK:
		return ""
	}
	var failed []string
	for line := range bytes.Lines(body) {
		var check rpc.Check
		if json.Unmarshal(line, &check) == nil && !check.OK {
			failed = append(failed, check.Name+" "+check.Detail)
		}
	}
	return fmt.Sprintf("%s %v", resp.Status, failed)
}
