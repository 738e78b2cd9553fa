// Package imagecache fetches OS images, verifies them, keeps them on a chassis
// and writes them to disks.
//
// An Image says where its file is and which digests it must have; nothing that
// was fetched is trusted before they matched. A Cache keeps files of images in a
// Store: a directory (Dir) or a whole spare disk (Disk). Write puts an image on
// a disk, from the cache or straight from the network, and makes it bootable
// only when its digest has matched.
//
// Everything works on plain files as on disks.
package imagecache

import "errors"

// ErrDigest is wrapped by errors about a file whose digest or size is not that
// of its Image.
var ErrDigest = errors.New("digest does not match")

// ErrNotCached is wrapped by errors about an image that the cache does not have,
// or not completely.
var ErrNotCached = errors.New("image is not cached")

// ErrNoRoom is wrapped by errors about an image that is too large for a cache
// or a disk.
var ErrNoRoom = errors.New("not enough room")

// ErrVerify is wrapped when a disk does not read back as what was written.
var ErrVerify = errors.New("disk does not hold what was written")
