package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/teeth-metal/teeth/controlplane/poller"
	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/sku"
	"github.com/teeth-metal/teeth/controlplane/snmp"
	"github.com/teeth-metal/teeth/controlplane/store"
)

var hardwareRoutes = []route{
	{"GET /v1/bmcs", (*server).listBMCs},
	{"GET /v1/chassis/{id}/bmc", (*server).getBMC},
	{"PUT /v1/chassis/{id}/bmc", (*server).setBMC},
	{"DELETE /v1/chassis/{id}/bmc", (*server).removeBMC},
	{"GET /v1/chassis/{id}/bmc/info", (*server).bmcInfo},
	{"GET /v1/chassis/{id}/power", (*server).powerState},
	{"POST /v1/chassis/{id}/power", (*server).setPower},
	{"POST /v1/chassis/{id}/boot-device", (*server).setBootDevice},
	{"GET /v1/chassis/{id}/sel", (*server).eventLog},
	{"GET /v1/chassis/{id}/sensors", (*server).sensors},
	{"GET /v1/chassis/{id}/sku", (*server).skuOf},
	{"POST /v1/snmp", (*server).querySNMP},
	{"GET /v1/pollers", (*server).listPollers},
	{"POST /v1/pollers", (*server).addPoller},
	{"GET /v1/pollers/{id}", (*server).getPoller},
	{"PUT /v1/pollers/{id}", (*server).changePoller},
	{"DELETE /v1/pollers/{id}", (*server).removePoller},
	{"GET /v1/pollers/{id}/results", (*server).pollerResults},
	{"GET /v1/alerts", (*server).listAlerts},
	{"POST /v1/alerts/{id}/clear", (*server).clearAlert},
	{"GET /v1/skus", (*server).listSKUs},
	{"POST /v1/skus", (*server).putSKU},
	{"GET /v1/skus/{id}", (*server).getSKU},
	{"DELETE /v1/skus/{id}", (*server).removeSKU},
	{"GET /v1/skus/{id}/chassis", (*server).skuChassis},
}

// hardwareStatus maps errors of what lies outside the ramdisk to HTTP.
func hardwareStatus(err error) (int, bool) {
	for _, e := range []error{power.ErrInvalid, snmp.ErrInvalid, poller.ErrInvalid, sku.ErrInvalid} {
		if errors.Is(err, e) {
			return http.StatusBadRequest, true
		}
	}
	for _, e := range []error{power.ErrUnreachable, power.ErrDenied, power.ErrUnsupported, snmp.ErrUnreachable, snmp.ErrRefused} {
		if errors.Is(err, e) {
			return http.StatusBadGateway, true
		}
	}
	return 0, false
}

func (s *server) listBMCs(w http.ResponseWriter, r *http.Request) error {
	return page(w, r, s.Store.ListBMCs, func(b store.BMC) string { return b.Chassis })
}

func (s *server) getBMC(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	b, err := s.Store.BMC(r.Context(), c.ID)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, b)
}

// NewBMC is the body of a request to note a BMC.
type NewBMC struct {
	Protocol   string `json:"protocol"`
	Address    string `json:"address"`
	Username   string `json:"username"`
	Password   string `json:"password"`
	CertSHA256 string `json:"cert_sha256,omitempty"`
	Insecure   bool   `json:"insecure,omitempty"`
	System     string `json:"system,omitempty"`
	NoProbe    bool   `json:"no_probe,omitempty"`
}

func (s *server) setBMC(w http.ResponseWriter, r *http.Request) error {
	var in NewBMC
	if err := read(w, r, &in); err != nil {
		return err
	}
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	b, _, err := s.Power.SetBMC(r.Context(), store.BMC{
		Chassis: c.ID, Protocol: in.Protocol, Address: in.Address, Username: in.Username,
		CertSHA256: in.CertSHA256, Insecure: in.Insecure, System: in.System,
	}, in.Password, !in.NoProbe)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, b)
}

func (s *server) removeBMC(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	return done(w, s.Store.RemoveBMC(r.Context(), c.ID))
}

func (s *server) bmcInfo(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	info, err := s.Power.Info(r.Context(), c.ID)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, info)
}

func (s *server) powerState(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	state, err := s.Power.State(r.Context(), c.ID)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, map[string]any{"state": state})
}

func (s *server) setPower(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Action string `json:"action"`
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	a, err := power.ParseAction(in.Action)
	if err != nil {
		return err
	}
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	return done(w, s.Power.Set(r.Context(), c.ID, a))
}

func (s *server) setBootDevice(w http.ResponseWriter, r *http.Request) error {
	var in power.Boot
	if err := read(w, r, &in); err != nil {
		return err
	}
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	return done(w, s.Power.SetBoot(r.Context(), c.ID, in))
}

func (s *server) eventLog(w http.ResponseWriter, r *http.Request) error {
	n := power.MaxEvents
	if v := r.URL.Query().Get("limit"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 1 || n > power.MaxEvents {
			return &refusal{http.StatusBadRequest, fmt.Sprintf("limit: want a number from 1 to %d", power.MaxEvents)}
		}
	}
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	log, err := s.Power.Events(r.Context(), c.ID, r.URL.Query().Get("after"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, log)
}

func (s *server) sensors(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	items, err := s.Power.Sensors(r.Context(), c.ID)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[power.Sensor]{Items: items})
}
