// Package app installs, configures, runs and removes apps on a machine: bundles of
// files such as a vendor's firmware flasher, a RAID utility or an exporter of
// metrics, that reach a running machine without a new image.
//
// An app is one package, an rpm, a deb or a tar (plain, gzip, zstd or xz), that is
// fetched by URL and unpacked into a root directory of its own. Nothing of it is
// installed on the machine itself: scripts of packages (%post, postinst) are not run
// and dependencies are not resolved, so a package must bring what it needs, or be
// static. Its services run in mount, PID, IPC and UTS namespaces of their own with
// that directory as /, in a control group with limits, without capabilities that its
// manifest does not ask for, and are started again when they end.
//
// The package says what its services are and how it is configured, in the first of
// these ways that it has (package manifest has the details):
//
//   - a manifest: Spec.Manifest, else teeth-app.yaml, .yml or .json at the package's
//     root or in /opt/pf9/NAME
//   - the program /opt/pf9/NAME/config with --get-config, --set-config JSON and
//     --get-services, as Backbone's original apps have it
//   - systemd units and /etc/init.d scripts of the package
//
// The package knows no protocol and no scheduling: whoever uses it decides what should
// be there and calls Install, Configure, Set and Remove; Installed tells what is.
package app
