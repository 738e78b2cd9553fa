package teeth

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
)

// Every example in docs/protocol.md must be a line as we write it, with params
// that the types here know in full.
func TestDocumentation(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	params := map[string]func() any{
		MethodHandshake:      func() any { return new(Handshake) },
		MethodPing:           func() any { return new(struct{}) },
		MethodLog:            func() any { return new(Log) },
		MethodTaskStatus:     func() any { return new(TaskStatus) },
		MethodCertificate:    func() any { return new(CertificateParams) },
		MethodRecords:        func() any { return new(RecordsParams) },
		MethodStatus:         func() any { return new(StatusParams) },
		MethodTaskCancel:     func() any { return new(TaskParams) },
		MethodDiskErase:      func() any { return new(DiskEraseParams) },
		MethodFirmwareSecure: func() any { return new(FirmwareSecureParams) },
		MethodQC:             func() any { return new(QCParams) },
		MethodCacheImages:    func() any { return new(CacheImagesParams) },
		MethodPrepareImage:   func() any { return new(PrepareImageParams) },
		MethodRunImage:       func() any { return new(RunImageParams) },
		MethodReboot:         func() any { return new(RebootParams) },
		MethodAppConfig:      func() any { return new(AppParams) },
		MethodAppPing:        func() any { return new(struct{}) },
		MethodAppStatus:      func() any { return new(AppParams) },
	}
	seen := make(map[string]bool)
	for line := range bytes.Lines(doc) {
		if line[0] != '{' {
			continue
		}
		m, err := Parse(line)
		if err != nil {
			t.Errorf("%s%v", line, err)
			continue
		}
		if b, err := m.Append(nil); err != nil || !bytes.Equal(b, line) {
			t.Errorf("documented\n%swe write\n%s%v", line, b, err)
		}
		if m.Kind != KindCommand {
			continue
		}
		method := Canonical(m.Method)
		seen[method] = true
		if params[method] == nil {
			t.Errorf("%s is no method of ours", m.Method)
			continue
		}
		dec := json.NewDecoder(bytes.NewReader(m.Params))
		dec.DisallowUnknownFields()
		if err := dec.Decode(params[method]()); err != nil {
			t.Errorf("%s: %v", m.Method, err)
		}
	}
	for method := range params {
		if !seen[method] {
			t.Errorf("no example of %s", method)
		}
	}
	for _, fatal := range []string{FatalDecode, FatalMalformed, FatalNoVersion, FatalNoID, FatalNoParams,
		FatalParamsType, FatalUnknownID, FatalUnsupported, FatalVersion, FatalUnknownMethod} {
		if !bytes.Contains(doc, []byte("`"+fatal+"`")) {
			t.Errorf("%q is not documented", fatal)
		}
	}
}
