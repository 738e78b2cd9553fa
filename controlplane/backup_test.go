package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/backup"
	"github.com/teeth-metal/teeth/controlplane/client"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// A control plane that is backed up while it writes, and restored elsewhere, is the
// same one: to its chassis, which trust its CA and show it the token that they know,
// and to its operators.
func TestBackupWhileWorkingAndRestore(t *testing.T) {
	s := start(t, t.TempDir(), withMinion)
	a := connect(t, s, "boot1")
	key := a.welcome.Minion.Key
	apps := map[string]wire.App{"web": {Version: "1.8", URL: "http://files/web.deb", Config: json.RawMessage("{}")}}
	if _, err := s.client.ChangeApps(t.Context(), "SN1", client.AppChange{Put: apps, Unseen: true}); err != nil {
		t.Fatal(err)
	}
	before := s.chassis("ready")
	content := bytes.Repeat([]byte("operating system "), 10000)
	img, err := s.client.UploadImage(t.Context(), client.NewImage{Name: "debian-12", Format: "raw"}, bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := s.client.PutSpec(ctx, fmt.Sprintf("spec-%d", w), json.RawMessage(fmt.Sprintf(`{"cpu":{"min_cores":%d}}`, i))); err != nil && ctx.Err() == nil {
					t.Errorf("a write while a backup is made: %v", err)
					return
				}
			}
		})
	}
	var file bytes.Buffer
	for range 3 {
		file.Reset()
		if err := s.client.Backup(ctx, &file, true); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	writers.Wait()
	a.conn.Close()
	s.halt()

	dir := filepath.Join(t.TempDir(), "restored")
	m, err := backup.Restore(t.Context(), &file, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files", len(m.Files))
	if m.Records == "" {
		t.Error("it does not say where logs and commands are")
	}
	r := start(t, dir, withMinion)
	if r.info.CASHA256 != s.info.CASHA256 || r.token != s.token {
		t.Errorf("its CA or token is another: %s %s", r.info.CASHA256, s.info.CASHA256)
	}
	if got, err := r.client.Spec(t.Context(), "spec-0"); err != nil || len(got.Spec) == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if images, err := r.client.ListImages(t.Context()); err != nil || len(images) != 1 || images[0].SHA256 != img.SHA256 {
		t.Errorf("%+v, %v", images, err)
	}
	if again := connect(t, r, "boot1").welcome.Minion; again == nil || again.Key != key { // pins the CA, shows the token
		t.Error("the chassis' key for its records is another: those it has would be refused")
	}
	if h, err := r.client.AppHost(t.Context(), "SN1"); err != nil || !h.Desired || len(h.Apps) != 1 {
		t.Errorf("the apps that the chassis is to have: %+v, %v", h, err)
	}
	if after := r.chassis("ready"); after.ID != before.ID {
		t.Errorf("the chassis is another one: %s, was %s", after.ID, before.ID)
	}
	trail, err := r.client.Audit(t.Context(), "", "", 0)
	if err != nil || len(trail) == 0 {
		t.Errorf("%v", err)
	}
}
