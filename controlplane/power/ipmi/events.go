package ipmi

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/command/storage"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/teeth-metal/teeth/controlplane/power"
)

const (
	firstRecord = 0x0000
	lastRecord  = 0xffff // what comes after the last
)

// Events reads the SEL, section 31. Ids are record ids, four hexadecimal digits.
func (s *session) Events(ctx context.Context, after string, limit int) (log power.EventLog, err error) {
	if limit <= 0 || limit > power.MaxEvents {
		limit = power.MaxEvents
	}
	start := uint64(firstRecord)
	if after != "" {
		if start, err = strconv.ParseUint(after, 16, 16); err != nil || start == lastRecord {
			return log, fmt.Errorf("SEL record id %.20q: want four hexadecimal digits: %w", after, power.ErrInvalid)
		}
	}
	err = s.do(ctx, "read SEL", func() error {
		info, err := s.c.GetSELInfo(ctx)
		if err != nil {
			return err
		}
		log = power.EventLog{
			Total: int(info.Entries), Free: int(info.FreeBytes), Overflow: info.OperationSupport.Overflow,
			Added: timestamp(info.RecentAdditionTime), Erased: timestamp(info.RecentEraseTime), Events: []power.Event{},
		}
		if info.Entries == 0 {
			return nil
		}
		return s.readEvents(ctx, uint16(start), limit, &log)
	})
	return log, err
}

// readEvents follows the chain of records. One that a BMC has tied into a loop,
// or made longer than a SEL can be, ends.
func (s *session) readEvents(ctx context.Context, start uint16, limit int, log *power.EventLog) error {
	seen := map[uint16]bool{}
	for id := start; id != lastRecord && !seen[id] && len(seen) < 1<<16-1; {
		seen[id] = true
		entry, err := s.c.GetSELEntry(ctx, 0, id)
		if code, refused := completion(err); refused && code == 0xcb { // not there any more
			if id != firstRecord && id == start && len(seen) == 1 {
				start, id = firstRecord, firstRecord // the log was cleared: all of it is new
				continue
			}
			return nil
		}
		if err != nil {
			return err
		}
		if start == firstRecord || id != start { // the first is the one that is known
			event, err := decodeEvent(entry)
			if err != nil {
				return err
			}
			log.Events = append(log.Events, event)
			if len(log.Events) > limit {
				log.Events, log.Truncated = log.Events[1:], true
			}
		}
		id = entry.NextRecordID
	}
	return nil
}

func decodeEvent(entry *storage.GetSELEntryResponse) (power.Event, error) {
	record, err := types.ParseSEL(entry.Data)
	if err != nil {
		return power.Event{}, err
	}
	e := power.Event{ID: fmt.Sprintf("%04x", record.RecordID), Severity: power.Information, Raw: hex.EncodeToString(entry.Data)}
	switch {
	case record.Standard != nil:
		r := record.Standard
		e.Time = timestamp(r.Timestamp)
		e.SensorType = r.SensorType.String()
		e.Sensor = fmt.Sprintf("%#02x", uint8(r.SensorNumber))
		e.Deasserted = bool(r.EventDir)
		e.Message = r.EventString()
		if e.Message == "" {
			e.Message = fmt.Sprintf("event type %#02x, data %02x %02x %02x", uint8(r.EventReadingType),
				r.EventData.EventData1, r.EventData.EventData2, r.EventData.EventData3)
		}
		e.Severity = severity(r.EventSeverity())
	case record.OEMTimestamped != nil:
		e.Time = timestamp(record.OEMTimestamped.Timestamp)
		e.Message = fmt.Sprintf("OEM record %#02x of manufacturer %d: %x", uint8(record.RecordType),
			record.OEMTimestamped.ManufacturerID, record.OEMTimestamped.OEMDefined)
	case record.OEMNonTimestamped != nil:
		e.Message = fmt.Sprintf("OEM record %#02x: %x", uint8(record.RecordType), record.OEMNonTimestamped.OEM)
	}
	return e, nil
}

// timestamp leaves out what is no time: not set, or counted from the BMC's own
// start for want of a clock (section 37).
func timestamp(t time.Time) *time.Time {
	if s := t.Unix(); s <= 0x20000000 || s >= 0xffffffff {
		return nil
	}
	t = t.UTC()
	return &t
}

func severity(s types.EventSeverity) string {
	switch s {
	case types.EventSeverityCritical:
		return power.Critical
	case types.EventSeverityWarning, types.EventSeverityDegraded, types.EventSeverityNonFatal:
		return power.Warning
	}
	return power.Information
}

// clean makes one line of a text that a device gave.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s))
}
