package rackhd

import (
	"context"
	"errors"
	"slices"

	"github.com/teeth-metal/teeth/wire/rackhd"
)

var ipmiCommands = []string{"power", "sel", "sdr"}

func (s *Service) hardware() (Hardware, error) {
	if s.c.Hardware == nil {
		return nil, refusal{"ServiceUnavailableError", 503, errors.New("this server reaches no BMCs and SNMP devices")}
	}
	return s.c.Hardware, nil
}

// hardwareMethods are commands whose results are published under another key. A
// BMC takes seconds, so nobody waits for them as for an answer.
func (s *Service) hardwareMethods() []method {
	return []method{
		{key: "ipmi.command.*.*", handle: func(ctx context.Context, c call) (any, error) {
			command, id := c.words[0], c.words[1]
			work, err := c.work()
			if err != nil {
				return nil, err
			}
			if !slices.Contains(ipmiCommands, command) {
				return nil, badRequest("%s: command %.40q: want power, sel or sdr", c.Key, command)
			}
			return nil, s.report(ctx, "ipmi.command."+command+".result."+id, work, command, func() (any, error) {
				hardware, err := s.hardware()
				if err != nil {
					return nil, err
				}
				chassis, err := s.chassis(ctx, work.node())
				if err != nil {
					return nil, err
				}
				return hardware.IPMI(ctx, command, chassis.ID)
			})
		}},
		{key: "run.snmp.command.*", handle: func(ctx context.Context, c call) (any, error) {
			work, err := c.work()
			if err != nil {
				return nil, err
			}
			return nil, s.report(ctx, "snmp.command.result."+c.words[0], work, "result", func() (any, error) {
				hardware, err := s.hardware()
				if err != nil {
					return nil, err
				}
				q := SNMPQuery{Host: work.Host, OIDs: work.OIDs, Walk: work.Walk}
				if work.Config != nil && len(q.OIDs) == 0 {
					q.OIDs = work.Config.OIDs
				}
				if len(q.OIDs) == 0 {
					q.OIDs, q.Walk = []string{"1.3.6.1.2.1.1"}, true // the system group
				}
				if work.node() != "" {
					chassis, err := s.chassis(ctx, work.node())
					if err != nil {
						return nil, err
					}
					q.Chassis = chassis.ID
				} else if q.Host == "" {
					return nil, badRequest("%s: neither node nor host is given", c.Key)
				}
				return hardware.SNMP(ctx, q)
			})
		}},
	}
}

// work is what a poller's message asks for. Addresses and credentials in it are
// not used: they come from the store, so that a message cannot send the ones we
// have to somebody else.
type work struct {
	Host       string   `json:"host"`
	Node       string   `json:"node"`
	NodeID     string   `json:"nodeId"`
	WorkItemID string   `json:"workItemId"`
	OIDs       []string `json:"oids"`
	Walk       bool     `json:"walk"`
	Config     *struct {
		OIDs []string `json:"oids"`
	} `json:"config"`
}

func (w work) node() string { return first(w.Node, w.NodeID) }

const maxOIDs = 64

func (c call) work() (work, error) {
	var in struct {
		Value *work `json:"value"`
	}
	if err := c.decode(&in); err != nil {
		return work{}, err
	}
	if in.Value == nil {
		return work{}, badRequest("%s: no value", c.Key)
	}
	if len(in.Value.OIDs) > maxOIDs || in.Value.Config != nil && len(in.Value.Config.OIDs) > maxOIDs {
		return work{}, badRequest("%s: more than %d OIDs", c.Key, maxOIDs)
	}
	return *in.Value, nil
}

// report runs do and publishes what came of it, an error as well.
func (s *Service) report(ctx context.Context, key string, w work, name string, do func() (any, error)) error {
	value := object{"host": w.Host, "node": w.node(), "workItemId": w.WorkItemID}
	result, failure := do()
	if failure != nil {
		value["error"] = errorEvent(failure)
	} else {
		value[name] = result
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishWait) // the work may have used up its time
	defer cancel()
	if err := s.publish(ctx, rackhd.Task, key, rackhd.Result{Value: value}); err != nil {
		return errors.Join(failure, err)
	}
	if failure != nil {
		s.c.Log.Warn("a command from the bus failed", "key", key, "error", failure)
	}
	return nil
}
