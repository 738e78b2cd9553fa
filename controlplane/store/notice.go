package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Kinds of notice. Subject and data are as the comment says; RackHD's names for
// them are package rackhd's business.
const (
	NoticeDiscovered   = "chassis.discovered" // seen for the first time
	NoticeApproved     = "chassis.approved"
	NoticeRemoved      = "chassis.removed"
	NoticeConnected    = "chassis.connected"
	NoticeDisconnected = "chassis.disconnected"
	NoticeInspected    = "chassis.inspected"
	NoticeGraphStarted = "graph.started"     // subject: graph; data: graphName, status
	NoticeGraphEnded   = "graph.finished"    // the same
	NoticeTaskStarted  = "task.started"      // subject: task; data: taskName, graphId, graphName
	NoticeTaskCancel   = "task.cancel"       // subject: task; whoever does it is to stop. Before its task.finished, once
	NoticeTaskEnded    = "task.finished"     // subject: task; data: taskName, graphId, graphName, state, error, context, terminalOnStates
	NoticeTFTPSent     = "tftp.success"      // data: file, remoteAddress, remotePort, size, time
	NoticeTFTPFailed   = "tftp.failure"      // the same, and error
	NoticeHTTP         = "http.response"     // data: address, method, url, statusCode, time
	NoticeDHCPBound    = "dhcp.bound"        // data: ip, mac, hostname, expires
	NoticeSKU          = "sku.assigned"      // data: sku
	NoticeFromNode     = "node.notification" // what a node posts; data: as it posts it
	NoticeAlert        = "poller.alert"      // subject: poller; data: see package poller
)

// maxNotices bounds how many notices wait to be told; the oldest give way.
const maxNotices = 100_000

// Notice is something that has happened and is to be told on the bus. It is
// stored with what it tells of, in one transaction, and dropped once the bus has
// it, so that none is lost.
type Notice struct {
	Number  int64
	Kind    string
	Chassis string
	Subject string
	Data    json.RawMessage // an object
	Time    time.Time
}

// notice adds a notice to the transaction.
func (t *tx) notice(kind, chassis, subject string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("notice %s: %w", kind, err)
	}
	if data == nil {
		b = []byte("{}")
	}
	number := t.nextRev()
	if _, err := t.Exec(`INSERT INTO notices (number, kind, chassis, subject, data, time) VALUES (?, ?, ?, ?, ?, ?)`,
		number, kind, chassis, subject, string(b), t.now); err != nil {
		return fmt.Errorf("notice %s: %w", kind, err)
	}
	return nil
}

// AddNotice stores a notice of something that is kept nowhere else.
func (s *Store) AddNotice(ctx context.Context, kind, chassis, subject string, data any) error {
	return s.update(ctx, func(t *tx) error { return t.notice(kind, chassis, subject, data) })
}

// Notices returns up to limit notices newer than the number after, oldest first.
func (s *Store) Notices(ctx context.Context, after int64, limit int) ([]Notice, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT number, kind, chassis, subject, data, time FROM notices WHERE number > ? ORDER BY number LIMIT ?`, after, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list notices: %w", err)
	}
	defer rows.Close()
	var list []Notice
	for rows.Next() {
		var n Notice
		var data string
		var ms int64
		if err := rows.Scan(&n.Number, &n.Kind, &n.Chassis, &n.Subject, &data, &ms); err != nil {
			return nil, fmt.Errorf("list notices: %w", err)
		}
		n.Data, n.Time = json.RawMessage(data), time.UnixMilli(ms).UTC()
		list = append(list, n)
	}
	return list, rows.Err()
}

// anybodys are the notices that anybody on the boot network can cause.
const anybodys = `'` + NoticeHTTP + `', '` + NoticeTFTPSent + `', '` + NoticeTFTPFailed + `', '` + NoticeDHCPBound + `'`

// DropNotices forgets the notices up to a number, which have been told, and the
// oldest beyond what is kept: first of those that anybody can cause, so that a
// flood of them pushes out nothing that matters. It returns how many were dropped
// untold.
func (s *Store) DropNotices(ctx context.Context, upTo int64) (untold int64, err error) {
	err = s.update(ctx, func(t *tx) error {
		var err error
		untold, err = t.dropNotices(upTo, maxNotices)
		return err
	})
	return untold, err
}

func (t *tx) dropNotices(upTo, keep int64) (untold int64, err error) {
	if _, err := t.Exec(`DELETE FROM notices WHERE number <= ?`, upTo); err != nil {
		return 0, err
	}
	var excess int64 // at most as many again: the rest goes the next time
	if err := t.QueryRow(`SELECT COUNT(*) FROM (SELECT number FROM notices ORDER BY number DESC LIMIT ? OFFSET ?) AS more`, keep, keep).Scan(&excess); err != nil {
		return 0, err
	}
	for _, which := range []string{`WHERE kind IN (` + anybodys + `)`, ``} {
		if untold >= excess {
			break
		}
		res, err := t.Exec(`DELETE FROM notices WHERE number IN (SELECT number FROM notices `+which+` ORDER BY number LIMIT ?)`, excess-untold)
		if err != nil {
			return 0, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return 0, err
		}
		untold += n
	}
	return untold, nil
}
