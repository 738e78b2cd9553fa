package node

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

// program is what a node runs under Node. It is preceded by its settings.
//
//go:embed bootstrap.js
var program string

// settings of program.
type settings struct {
	Identifier string `json:"identifier"`
	URL        string `json:"url"` // that is asked and posted to
}

// bootstrap gives a ramdisk with Node its client. Which chassis it is for is said
// by what is shown, and not by the MAC address in the query, which anybody can
// write there.
func (s *server) bootstrap(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	id := wire.NodeID(c.ID)
	u := url.URL{Scheme: "http", Host: r.Host, Path: strings.TrimSuffix(r.URL.Path, "bootstrap.js") + id}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if capability := r.URL.Query().Get(CapabilityParameter); capability != "" {
		u.RawQuery = url.Values{CapabilityParameter: {capability}}.Encode()
	}
	if again, err := url.Parse(u.String()); err != nil || again.Host != r.Host {
		return fmt.Errorf("%w: Host %.64q", wire.ErrInvalid, r.Host)
	}
	b, err := json.Marshal(settings{Identifier: id, URL: u.String()})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/javascript")
	io.WriteString(w, "'use strict';\nconst settings = "+string(b)+";\n"+program)
	return nil
}
