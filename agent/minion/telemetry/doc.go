// Package telemetry measures a machine at intervals: memory, load, disks,
// temperatures, network, what other programs have left in a folder, and what
// commands of the configuration print.
//
//	label          value                                       unit
//	mem_used_kb    as the original: total less available       KiB, with ".0"
//	mem_total_kb, mem_available_kb, swap_used_kb               KiB
//	load_avg       over the last minute, as the original
//	disk_usage     JSON, a list with the columns of `df -Pk`   KiB
//	temperatures   JSON, a list of chip, sensor and celsius    °C
//	network        JSON, an object by interface                bytes, packets
//
// pick_files has no label: what is in a file is sent as one "JSON:" text, or several
// if it is a list that is too long for one.
//
// Every measurement is made at a random time within its first interval, and then at
// intervals that differ by up to a tenth, so that machines that were started together
// do not report together.
package telemetry
