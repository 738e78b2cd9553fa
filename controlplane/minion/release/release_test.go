package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/minion/records"
)

type versions struct{ err error }

func (v versions) NewestAgentVersion(_ context.Context, kind, arch string, signed bool) (records.AgentVersion, error) {
	return records.AgentVersion{Version: "1.2.3", URL: "/boot/" + kind + "-" + arch, MD5: fmt.Sprint(signed), Signature: "s", SHA256: "d", Size: 7}, v.err
}

func TestVersionURL(t *testing.T) {
	for _, tt := range []struct {
		query string
		err   error
		code  int
		want  answer
	}{
		{"", nil, 200, answer{"1.2.3", "false", "http://h:1/boot/agent-", "d", "s", 7}},
		{"?kind=agent&arch=amd64", nil, 200, answer{"1.2.3", "true", "/boot/agent-amd64", "d", "s", 7}},
		{"?kind=image&arch=amd64", nil, 200, answer{"1.2.3", "true", "/boot/image-amd64", "d", "s", 7}},
		{"?kind=image", fmt.Errorf("x: %w", records.ErrNotFound), 404, answer{}},
		{"", errors.New("broken"), 503, answer{}},
	} {
		w := httptest.NewRecorder()
		Handler(versions{tt.err}, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "http://h:1"+Path+tt.query, nil))
		var got answer
		if w.Code == 200 {
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Error(err)
			}
		}
		if w.Code != tt.code || got != tt.want {
			t.Errorf("%s: %d, %+v", tt.query, w.Code, got)
		}
	}
}
