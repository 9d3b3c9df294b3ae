package config

import (
	"fmt"
	"io"
	"log/slog"
	"os"
)

// redacted is all that is seen of a secret.
const redacted = "[redacted]"

// Secret is a text that prints, logs and encodes as "[redacted]", or as "" when
// it is empty. Only Reveal gives it away. The text hangs on a pointer, so that
// even %+v of a struct that hides it in an unexported field shows an address.
type Secret struct{ text *string }

// NewSecret hides a text.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal is the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero tells an empty secret.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// String hides the text.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// GoString hides the text from %#v.
func (s Secret) GoString() string { return fmt.Sprintf("config.Secret(%q)", s.String()) }

// Format hides the text from every verb of fmt.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	_, _ = io.WriteString(f, text) // fmt gives its errors to nobody
}

// MarshalText hides the text from JSON and other encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the text.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// LogValue hides the text from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// maxSecretFile bounds a secret file: keys and tokens have a few hundred bytes.
const maxSecretFile = 64 << 10

// ReadSecretFile reads a file such as a setting that ends in _FILE names, as it is. It
// refuses a file that anybody but its owner may read or write, an empty one and
// one above 64 KiB.
func ReadSecretFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("secret file %s: mode %v, want a regular file that only its owner may touch (0600)", name, mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("secret file: %w", err)
	case len(data) == 0:
		return nil, fmt.Errorf("secret file %s: empty", name)
	case len(data) > maxSecretFile:
		return nil, fmt.Errorf("secret file %s: larger than %d bytes", name, maxSecretFile)
	}
	return data, nil
}

// LeastMACKey is the least length of a MAC key in bytes: that of the hash. What is shorter can be guessed, and whoever guesses it writes the control
// log of everybody.
const LeastMACKey = 32

// ReadMACKey reads the key of control and outcomes records (SPILLWAY_MAC_KEY_FILE) as ReadSecretFile does, and refuses one below LeastMACKey.
func ReadMACKey(name string) ([]byte, error) {
	key, err := ReadSecretFile(name)
	if err == nil && len(key) < LeastMACKey {
		return nil, fmt.Errorf("secret file %s: a key of %d bytes, want %d or more", name, len(key), LeastMACKey)
	}
	return key, err
}
