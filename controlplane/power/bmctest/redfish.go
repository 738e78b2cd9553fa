package bmctest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/power"
)

// Service is a Redfish service of one system, written for tests after DSP0266 and
// the schemas of DSP8010, as no distribution has one. It asks for a session, and
// counts those that are open.
type Service struct {
	Target power.Target

	// Change may replace a resource before it is sent; the answer is nil for 404.
	Change func(path string, resource map[string]any) map[string]any

	mu       sync.Mutex
	sessions map[string]bool
	opened   int
	power    string
	boot     map[string]any
	resets   []string
	entries  []map[string]any
	reading  float64
}

const redfishPassword = "horse-battery-7"

// StartService starts it on loopback, until the test ends.
func StartService(t testing.TB) *Service {
	t.Helper()
	s := &Service{
		sessions: map[string]bool{}, power: "Off", reading: 41.5,
		boot: map[string]any{
			"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None", "BootSourceOverrideMode": "Legacy",
			"BootSourceOverrideTarget@Redfish.AllowableValues": []string{"None", "Pxe", "UefiHttp", "Cd", "Hdd", "BiosSetup"},
		},
	}
	server := httptest.NewTLSServer(s)
	t.Cleanup(server.Close)
	sum := sha256.Sum256(server.Certificate().Raw)
	s.Target = power.Target{
		Protocol: power.Redfish, Address: server.Listener.Addr().String(), Username: "admin", Password: redfishPassword,
		CertSHA256: hex.EncodeToString(sum[:]),
	}
	return s
}

// Sessions returns how many sessions are open, and how many there have been.
func (s *Service) Sessions() (open, ever int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions), s.opened
}

// Resets returns the reset types that were asked for.
func (s *Service) Resets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.resets...)
}

// Boot returns a property of the boot override.
func (s *Service) Boot(property string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boot[property]
}

// SetReading sets what the temperature sensor reads.
func (s *Service) SetReading(v float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = v
}

// Log adds an entry to the event log.
func (s *Service) Log(severity, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := fmt.Sprint(len(s.entries) + 1)
	s.entries = append(s.entries, map[string]any{
		"@odata.id": entriesPath + "/" + id, "@odata.type": "#LogEntry.v1_15_0.LogEntry", "Id": id, "Name": "Log entry " + id,
		"EntryType": "SEL", "Severity": severity, "Message": message, "SensorType": "Temperature", "SensorNumber": 1,
		"EntryCode": "Assert", "Created": fmt.Sprintf("2026-11-21T10:00:%02dZ", len(s.entries)),
	})
}

const (
	root        = "/redfish/v1"
	systemPath  = root + "/Systems/node1"
	logPath     = systemPath + "/LogServices/SEL"
	entriesPath = logPath + "/Entries"
	boxPath     = root + "/Chassis/box1"
	managerPath = root + "/Managers/bmc"
	sessionPath = root + "/SessionService/Sessions"
	resetPath   = systemPath + "/Actions/ComputerSystem.Reset"
)

func link(path string) map[string]any { return map[string]any{"@odata.id": path} }

func collection(kind string, members ...any) map[string]any {
	return map[string]any{
		"@odata.type": "#" + kind + "Collection." + kind + "Collection", "Name": kind + " Collection",
		"Members": append([]any{}, members...), "Members@odata.count": len(members),
	}
}

// resource returns the resource at a path; s.mu is held.
func (s *Service) resource(path string) map[string]any {
	switch path {
	case root:
		return map[string]any{
			"@odata.type": "#ServiceRoot.v1_16_0.ServiceRoot", "Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.18.0",
			"UUID": "92384634-2938-2342-8820-489239905423", "Systems": link(root + "/Systems"), "Chassis": link(root + "/Chassis"),
			"Managers": link(root + "/Managers"), "SessionService": link(root + "/SessionService"),
			"Links": map[string]any{"Sessions": link(sessionPath)},
		}
	case root + "/SessionService":
		return map[string]any{"@odata.type": "#SessionService.v1_1_8.SessionService", "Id": "SessionService", "Name": "Session Service",
			"ServiceEnabled": true, "Sessions": link(sessionPath)}
	case root + "/Systems":
		return collection("ComputerSystem", link(systemPath))
	case root + "/Chassis":
		return collection("Chassis", link(boxPath))
	case root + "/Managers":
		return collection("Manager", link(managerPath))
	case systemPath:
		return map[string]any{
			"@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem", "Id": "node1", "Name": "node1", "SystemType": "Physical",
			"Manufacturer": "Contoso", "Model": "3500", "PowerState": s.power, "Boot": s.boot,
			"Status": map[string]any{"State": "Enabled", "Health": "OK"}, "LogServices": link(systemPath + "/LogServices"),
			"SerialConsole": map[string]any{"SSH": map[string]any{"ServiceEnabled": true, "Port": 2200}},
			"Links":         map[string]any{"Chassis": []any{link(boxPath)}, "ManagedBy": []any{link(managerPath)}},
			"Actions": map[string]any{"#ComputerSystem.Reset": map[string]any{"target": resetPath,
				"ResetType@Redfish.AllowableValues": []string{"On", "ForceOff", "GracefulShutdown", "ForceRestart", "PushPowerButton"}}},
		}
	case systemPath + "/LogServices":
		return collection("LogService", link(logPath))
	case logPath:
		return map[string]any{"@odata.type": "#LogService.v1_4_0.LogService", "Id": "SEL", "Name": "System Event Log",
			"LogEntryType": "SEL", "Entries": link(entriesPath)}
	case entriesPath:
		var members []any
		for _, e := range s.entries {
			members = append(members, e)
		}
		return collection("LogEntry", members...)
	case boxPath:
		return map[string]any{"@odata.type": "#Chassis.v1_23_0.Chassis", "Id": "box1", "Name": "box1", "ChassisType": "RackMount",
			"Sensors": link(boxPath + "/Sensors")}
	case boxPath + "/Sensors":
		return collection("Sensor", link(boxPath+"/Sensors/CPU"), link(boxPath+"/Sensors/Fan"))
	case boxPath + "/Sensors/CPU":
		health := "OK"
		if s.reading > 90 {
			health = "Critical"
		}
		return map[string]any{"@odata.type": "#Sensor.v1_8_1.Sensor", "Id": "CPU", "Name": "CPU Temp", "ReadingType": "Temperature",
			"ReadingUnits": "Cel", "Reading": s.reading, "Status": map[string]any{"State": "Enabled", "Health": health}}
	case boxPath + "/Sensors/Fan":
		return map[string]any{"@odata.type": "#Sensor.v1_8_1.Sensor", "Id": "Fan", "Name": "Fan 1", "ReadingType": "Rotational",
			"ReadingUnits": "{rev}/min", "Reading": nil, "Status": map[string]any{"State": "Absent"}}
	case managerPath:
		return map[string]any{"@odata.type": "#Manager.v1_18_0.Manager", "Id": "bmc", "Name": "BMC", "ManagerType": "BMC", "FirmwareVersion": "2.17.1"}
	}
	for _, e := range s.entries {
		if e["@odata.id"] == path {
			return e
		}
	}
	return nil
}

// ServeHTTP is the service.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("OData-Version", "4.0")
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodPost && path == sessionPath {
		s.login(w, r)
		return
	}
	if path != root && !s.sessions[r.Header.Get("X-Auth-Token")] {
		refuse(w, http.StatusUnauthorized, "There is no valid session established with the implementation.")
		return
	}
	switch {
	case r.Method == http.MethodGet:
		found := s.resource(path)
		if found != nil {
			found = maps.Clone(found)
			found["@odata.id"] = path
			if s.Change != nil {
				found = s.Change(path, found)
			}
		}
		if found == nil {
			refuse(w, http.StatusNotFound, "The requested resource was not found.")
			return
		}
		json.NewEncoder(w).Encode(found)
	case r.Method == http.MethodDelete && strings.HasPrefix(path, sessionPath+"/"):
		delete(s.sessions, strings.TrimPrefix(path, sessionPath+"/"))
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPost && path == resetPath:
		s.reset(w, r)
	case r.Method == http.MethodPatch && path == systemPath:
		var in struct{ Boot map[string]any }
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Boot == nil {
			refuse(w, http.StatusBadRequest, "The request body is malformed.")
			return
		}
		maps.Copy(s.boot, in.Boot)
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(w, http.StatusMethodNotAllowed, "The method is not allowed.")
	}
}

func (s *Service) login(w http.ResponseWriter, r *http.Request) {
	var in struct{ UserName, Password string }
	if json.NewDecoder(r.Body).Decode(&in) != nil || in.UserName != "admin" || in.Password != redfishPassword {
		refuse(w, http.StatusUnauthorized, "While attempting to establish a session, access was denied.")
		return
	}
	s.opened++
	token := fmt.Sprintf("token%d", s.opened)
	s.sessions[token] = true
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", sessionPath+"/"+token)
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]any{"@odata.id": sessionPath + "/" + token, "@odata.type": "#Session.v1_7_0.Session",
		"Id": token, "Name": "Session", "UserName": in.UserName, "Password": nil})
}

func (s *Service) reset(w http.ResponseWriter, r *http.Request) {
	var in struct{ ResetType string }
	json.NewDecoder(r.Body).Decode(&in)
	next, ok := map[string]string{"On": "On", "ForceRestart": "On", "ForceOff": "Off", "GracefulShutdown": "Off", "PushPowerButton": "Off"}[in.ResetType]
	if !ok || (next == "On") == (s.power == "On") && in.ResetType != "ForceRestart" {
		refuse(w, http.StatusBadRequest, "The value "+in.ResetType+" for the parameter ResetType is not possible now.")
		return
	}
	s.power = next
	s.resets = append(s.resets, in.ResetType)
	w.WriteHeader(http.StatusNoContent)
}

// refuse answers with an error in the form of DSP0266, clause 8.6.
func refuse(w http.ResponseWriter, status int, message string) {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"code": "Base.1.18.GeneralError", "message": "See ExtendedInfo.",
		"@Message.ExtendedInfo": []any{map[string]any{"MessageId": "Base.1.18.GeneralError", "Message": message, "Severity": "Critical"}},
	}})
}
