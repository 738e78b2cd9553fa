package backbone

import (
	"encoding/json"
)

// ReportName is the name of the extension in which our slaves say more than the
// original's status has room for. Its data is a [Report].
const ReportName = "teeth"

// Report is what a slave of ours adds to its status.
type Report struct {
	// BootID is made anew whenever the slave starts, Sequence counts its statuses
	// from 1: of two with the same BootID the higher one is the newer, whatever
	// the clock says.
	BootID   string `json:"boot_id,omitempty"`
	Sequence int64  `json:"sequence,omitempty"`
	// Revision of the set_config that is worked on, or done.
	Revision int64 `json:"revision,omitempty"`
	// Refused is the newest set_config, if it was refused: nothing was changed.
	Refused *Refusal `json:"refused,omitempty"`
	// Reason says in a sentence why the state is not ok.
	Reason  string `json:"reason,omitempty"`
	Attempt int    `json:"attempt,omitempty"` // of converging, from 1
	// Heartbeat is how often the slave says something, in seconds.
	Heartbeat float64              `json:"heartbeat,omitempty"`
	Apps      map[string]AppReport `json:"apps,omitempty"`
}

// Refusal is a set_config that was refused.
type Refusal struct {
	Revision int64  `json:"revision,omitempty"` // 0 if it had none
	Reason   string `json:"reason"`             // a sentence that names the app and the field
}

// AppReport is how an app does.
type AppReport struct {
	Step     string  `json:"step,omitempty"` // of installing: download, unpack, …
	Done     int64   `json:"done,omitempty"` // bytes
	Total    int64   `json:"total,omitempty"`
	Percent  float64 `json:"percent,omitempty"`
	ExitCode *int    `json:"exit_code,omitempty"` // of the last run that ended
	Restarts int     `json:"restarts,omitempty"`
	Error    string  `json:"error,omitempty"`
}

// Report returns the status' report; nil without error if it has none.
func (s Status) Report() (*Report, error) {
	e, ok := s.Extensions[ReportName]
	if !ok || len(e.Data) == 0 {
		return nil, nil
	}
	var r Report
	if err := json.Unmarshal(e.Data, &r); err != nil {
		return nil, invalidf("status of host %s: extension %s: %w", printable(s.HostID), ReportName, err)
	}
	return &r, nil
}

// SetReport puts r into the status' extensions.
func (s *Status) SetReport(r Report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if s.Extensions == nil {
		s.Extensions = map[string]Extension{}
	}
	s.Extensions[ReportName] = Extension{Status: "ok", Data: b}
	return nil
}
