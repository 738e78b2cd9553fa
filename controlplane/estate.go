package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/seal"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// secretsFile holds the key of what is sealed in the database and of capabilities.
const secretsFile = "secrets.key"

// openStore opens the database under the id that the data directory keeps.
func openStore(ctx context.Context, c Config) (*store.Store, error) {
	dsn := c.Database
	if dsn == "" {
		dsn = filepath.Join(c.DataDir, "teeth.db")
	}
	id, err := serverID(c.DataDir)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	return store.OpenAs(ctx, dsn, store.Options{Server: id, Name: host, Version: c.Version, Log: c.Log})
}

// serverID returns the id of the server whose data directory it is.
func serverID(dir string) (string, error) {
	path := filepath.Join(dir, "server.id")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := uuid.NewString()
		return id, pki.WriteFile(path, []byte(id+"\n"))
	}
	if err != nil {
		return "", fmt.Errorf("server's id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if uuid.Validate(id) != nil {
		return "", fmt.Errorf("%s: %.64q is no UUID: remove the file", path, id)
	}
	return id, nil
}

// openSecrets reads or makes the secrets and the certificate authority. Servers
// that share a database must have the same ones: chassis that one has enrolled
// must trust, and be trusted by, all others.
func (s *server) openSecrets(ctx context.Context) (err error) {
	if s.store.Shared() {
		// Before they are made here.
		known, err := s.store.Estate(ctx, estateCA)
		if err != nil {
			return err
		}
		for _, name := range []string{"ca.pem", secretsFile} {
			if _, err := os.Lstat(filepath.Join(s.DataDir, name)); known != "" && errors.Is(err, fs.ErrNotExist) {
				return s.foreign(name)
			}
		}
	}
	if s.enrol, err = pki.Secret(s.DataDir, "enrol.token"); err != nil {
		return fmt.Errorf("enrolment token: %w", err)
	}
	if s.operator, err = pki.Secret(s.DataDir, "operator.token"); err != nil {
		return fmt.Errorf("operator's token: %w", err)
	}
	if s.secrets, err = pki.Secret(s.DataDir, secretsFile); err != nil {
		return fmt.Errorf("secrets key: %w", err)
	}
	if s.sealer, err = seal.New(s.secrets); err != nil {
		return err
	}
	if s.authority, err = pki.Open(s.DataDir, s.names()); err != nil {
		return err
	}
	if !s.store.Shared() {
		return nil
	}
	for _, f := range []struct {
		key, name, digest string
		needed            bool
	}{
		{estateCA, "ca.pem", s.authority.Pin(), true},
		{"secrets_sha256", secretsFile, digest(s.secrets), true},
		{"enrol_sha256", "enrol.token", digest(s.enrol), false},
		{"operator_sha256", "operator.token", digest(s.operator), false},
	} {
		kept, err := s.store.SetEstate(ctx, f.key, f.digest)
		switch {
		case err != nil:
			return err
		case kept != f.digest && f.needed:
			return s.foreign(f.name)
		case kept != f.digest: // it may be about to be changed on all of them
			s.Log.Warn("this server's "+f.name+" is not that of the server which set up the database: unless it is the same on all servers now, what one gives out the others refuse", "file", filepath.Join(s.DataDir, f.name))
		}
	}
	return nil
}

const estateCA = "ca_sha256"

func (s *server) foreign(name string) error {
	return fmt.Errorf("the database belongs to servers with another %s than %s: copy ca.pem, secrets.key, enrol.token and operator.token (not server.id) from the data folder of one of them to %s",
		name, filepath.Join(s.DataDir, name), s.DataDir)
}

func digest(secret string) string {
	d := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(d[:])
}

// startEstate makes the server one of those that share the database.
func (s *server) startEstate(ctx context.Context, start func(part func() error), boot string) error {
	host, port, err := net.SplitHostPort(boot)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = s.store.LocalAddress()
	}
	// Not the advertised one, behind which there may be all of them.
	if err := s.store.SetBoot(ctx, "http://"+net.JoinHostPort(host, port)); err != nil {
		return err
	}
	start(func() error {
		return s.store.KeepAlive(ctx, func() {
			s.gateway.EndAll(errors.New("other servers have taken this one for dead: connect again"))
		})
	})
	if s.store.Shared() {
		start(func() error { s.images.Keep(ctx); return nil })
	}
	return nil
}
