// Package config reads settings from the environment into structs.
//
// A setting is a field with the tags env (its variable, SPILLWAY_…), default, unit and doc. Load fills the fields, and refuses a
// SPILLWAY_ variable that nobody knows, so that a misspelt setting is an error and not a surprise. Doc lists what there is, for the
// reference. Quotas and switches are no settings: they live in the control log. Secrets redact themselves, and come from files that only
// their owner may read.
package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Prefix is what the names of all our variables begin with.
const Prefix = "SPILLWAY_"

// Setting describes one field.
type Setting struct {
	Env     string // the variable
	Type    string // Go's name of the type
	Default string // "" = the zero value
	Unit    string // of a number; "" = none
	Doc     string // one line for the operator
}

// Load sets every tagged field of the configs, which are pointers to structs, from environ ("KEY=value"), or else from its default. It
// returns everything that is wrong at once: values that cannot be read, and variables with our prefix that no config and no name in
// other processes' settings (Foreign) knows. Of a variable that is given twice the last counts; an empty one counts as absent. Kinds:
// string, bool, whole and other numbers, time.Duration, and what implements encoding.TextUnmarshaler. Two configs may share a variable.
func Load(environ []string, configs ...any) error {
	values := make(map[string]string, len(environ))
	for _, pair := range environ {
		if key, value, ok := strings.Cut(pair, "="); ok {
			values[key] = value
		}
	}
	var wrong []error
	known := slices.Clone(Foreign)
	for _, c := range configs {
		for field, setting := range fields(c) {
			known = append(known, setting.Env)
			text, given := values[setting.Env]
			if !given || text == "" {
				text = setting.Default
			}
			if text == "" {
				continue
			}
			if err := set(field, text); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", setting.Env, err))
			}
		}
	}
	for key := range values {
		if strings.HasPrefix(key, Prefix) && !slices.Contains(known, key) {
			wrong = append(wrong, fmt.Errorf("%s is no setting of this service; the nearest is %s", key, nearest(key, known)))
		}
	}
	slices.SortFunc(wrong, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(wrong...)
}

// Foreign are our variables that are read elsewhere: by the command line tool, which may start a service in the same environment.
var Foreign = []string{
	"SPILLWAY_ENQUEUE_ADDRESS", "SPILLWAY_SCHEDULER_ADDRESS", "SPILLWAY_NOTIFIER_ADDRESS", "SPILLWAY_NOTIFIER_WEBSOCKET",
	"SPILLWAY_AUTOMATION_ADDRESS", "SPILLWAY_TOKEN_FILE",
}

// Doc lists the settings of the configs in the order of their fields.
func Doc(configs ...any) []Setting {
	var list []Setting
	for _, c := range configs {
		for _, setting := range fields(c) {
			list = append(list, setting)
		}
	}
	return list
}

// fields goes over the tagged fields of a pointer to a struct, embedded structs included.
func fields(config any) func(yield func(reflect.Value, Setting) bool) {
	return func(yield func(reflect.Value, Setting) bool) { walk(reflect.ValueOf(config).Elem(), yield) }
}

func walk(v reflect.Value, yield func(reflect.Value, Setting) bool) bool {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			if !walk(v.Field(i), yield) {
				return false
			}
			continue
		}
		env := f.Tag.Get("env")
		if env == "" {
			continue
		}
		s := Setting{Env: env, Type: f.Type.String(), Default: f.Tag.Get("default"), Unit: f.Tag.Get("unit"), Doc: f.Tag.Get("doc")}
		if !yield(v.Field(i), s) {
			return false
		}
	}
	return true
}

var duration = reflect.TypeFor[time.Duration]()

// set reads text into a field. A field of another kind is a mistake in the program.
func set(field reflect.Value, text string) error {
	if parsed, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := parsed.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("%q is not acceptable: %w", text, err)
		}
		return nil
	}
	switch {
	case field.Type() == duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is no duration such as 1m30s", text)
		}
		field.SetInt(int64(d))
	case field.Kind() == reflect.String:
		field.SetString(text)
	case field.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		field.SetBool(b)
	case field.CanInt():
		n, err := strconv.ParseInt(text, 10, field.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is no whole number", text)
		}
		field.SetInt(n)
	case field.CanFloat():
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || x != x {
			return fmt.Errorf("%q is no number", text)
		}
		field.SetFloat(x)
	default:
		panic("config: a setting cannot be a " + field.Type().String())
	}
	return nil
}

// nearest is the known name with the least edit distance.
func nearest(name string, known []string) string {
	return slices.MinFunc(known, func(a, b string) int {
		return cmp.Or(cmp.Compare(distance(name, a), distance(name, b)), cmp.Compare(a, b))
	})
}

// distance is Levenshtein's, in the length of the names.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left, diagonal := i+1, i
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j] = left
			left = min(d, left+1, diagonal+1)
		}
		row[len(b)] = left
	}
	return row[len(b)]
}
