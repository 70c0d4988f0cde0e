package login

import (
	"bytes"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/penstockdev/penstock/connect"
)

// kept is a value that is made from files, and outlives what is wrong with them
// for a while.
type kept[T any] struct {
	mu     sync.Mutex
	value  T
	ok     bool
	failed string // what was logged last
}

// load makes the value. Where that fails, the last one is returned; the error
// only where there is none.
func (k *kept[T]) load(log *slog.Logger, read func() (T, error)) (T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	value, err := read()
	switch {
	case err == nil:
		if k.failed != "" {
			log.Info("a file of the login to Kafka has been put right", slog.String("was", k.failed))
		}
		k.value, k.ok, k.failed = value, true, ""
	case !k.ok:
		return value, err
	case k.failed != err.Error():
		k.failed = err.Error()
		log.Warn("a file of the login to Kafka cannot be used as it is now; its last good content stays in use", slog.Any("error", err))
	}
	return k.value, nil
}

// maxFile bounds what is read of any file.
const maxFile = 1 << 20

// readFile reads the file that a field names.
func readFile(field, name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, connect.Errorf(field, "%w", err)
	}
	if info.Size() > maxFile {
		return nil, connect.Errorf(field, "%s is larger than %d bytes: it cannot be what is wanted", name, maxFile)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, connect.Errorf(field, "%w", err)
	}
	return b, nil
}

// readSecret reads a file that holds one secret; a line end at its end does not
// count.
func readSecret(field, name string) (string, error) {
	b, err := readFile(field, name)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if secret == "" {
		return "", connect.Errorf(field, "%s is empty", name)
	}
	return secret, nil
}

// wholePEM refuses the beginning of a PEM file: crypto/x509 takes the blocks
// that are whole, and leaves out the one that is not.
func wholePEM(b []byte) error {
	begun, whole := bytes.Count(b, []byte("-----BEGIN ")), 0
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		whole++
	}
	switch {
	case begun == 0:
		return errors.New("holds nothing in PEM form")
	case begun != whole:
		return errors.New("ends in the middle of a block, or holds a damaged one")
	}
	return nil
}
