package export

import (
	"fmt"
	"math"
	"os"
	"strconv"

	"go.opentelemetry.io/otel/sdk/trace"
	apitrace "go.opentelemetry.io/otel/trace"

	"github.com/spillway/spillway/pkg/telemetry"
)

// sampler decides for a job, not for a trace: spans that carry a job id are
// sampled by its hash, so that all traces of one job (its retries, its
// redrive) are there or none is. All others follow their parent, and roots the
// ratio by their trace id.
type sampler struct {
	ratio float64
	limit uint64
	rest  trace.Sampler
}

func newSampler(ratio float64) trace.Sampler {
	s := sampler{ratio: ratio, rest: trace.ParentBased(trace.TraceIDRatioBased(ratio))}
	if ratio >= 1 {
		s.limit = math.MaxUint64
	} else if ratio > 0 {
		s.limit = uint64(ratio * math.MaxUint64)
	}
	return s
}

// samplerFromEnv reads the ratio of the standard variables. The samplers that
// they name are all replaced by ours, with that ratio.
func samplerFromEnv() (trace.Sampler, error) {
	switch name := os.Getenv("OTEL_TRACES_SAMPLER"); name {
	case "always_on", "parentbased_always_on":
		return newSampler(1), nil
	case "always_off", "parentbased_always_off":
		return newSampler(0), nil
	case "", "traceidratio", "parentbased_traceidratio":
		text := os.Getenv("OTEL_TRACES_SAMPLER_ARG")
		if text == "" {
			return newSampler(1), nil
		}
		ratio, err := strconv.ParseFloat(text, 64)
		if err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG is %.40q, want 0 to 1", text)
		}
		return newSampler(ratio), nil
	default:
		return nil, fmt.Errorf("OTEL_TRACES_SAMPLER is %.40q, which is not supported", name)
	}
}

// ShouldSample decides by the job id among the span's first attributes.
func (s sampler) ShouldSample(p trace.SamplingParameters) trace.SamplingResult {
	for _, a := range p.Attributes {
		if a.Key != telemetry.KeyJobID {
			continue
		}
		result := trace.SamplingResult{Decision: trace.Drop, Tracestate: apitrace.SpanContextFromContext(p.ParentContext).TraceState()}
		if s.limit > 0 && hash(a.Value.AsString()) <= s.limit {
			result.Decision = trace.RecordAndSample
		}
		return result
	}
	return s.rest.ShouldSample(p)
}

// Description names the sampler to people.
func (s sampler) Description() string { return fmt.Sprintf("JobHash{%g}", s.ratio) }

// hash is FNV-1a with a final mix (MurmurHash3's), which must stay as it is:
// processes of different releases decide alike.
func hash(text string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
