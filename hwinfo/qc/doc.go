// Package qc compares what a machine is made of with what it should be made of.
//
// A Spec is JSON. It demands only what it names; texts are found anywhere in what
// the hardware reports, without regard to case:
//
//	{
//	  "system": {"manufacturer": "Acme", "product": "Rack 9000"},
//	  "cpu": {"model": "Xeon Gold 6338", "min_sockets": 2, "min_cores": 64},
//	  "memory": {"min_bytes": 549755813888, "dimms": 16, "dimm_bytes": 34359738368},
//	  "disks": [
//	    {"count": 2, "transport": "nvme", "min_size": 900000000000},
//	    {"count": 4, "rotational": true, "min_size": 4000000000000}
//	  ],
//	  "nics": [{"count": 2, "min_speed_mbps": 25000, "driver": "ice"}],
//	  "firmware": [{"component": "bios", "minimum": "2.10.0"}],
//	  "tpm": {"present": true, "version": "2.0"},
//	  "bmc": {"present": true},
//	  "exact": true
//	}
//
// Every disk and every network interface counts for one entry only, and they are
// shared out so that as many as possible of the demands are met.
package qc
