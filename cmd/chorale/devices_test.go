package main

import (
	"strings"
	"testing"

	"chorale/worker/device"
)

func TestWriteDevices(t *testing.T) {
	l := deviceList{Driver: "580.1", CUDA: "13.0", Notes: []string{"GPUs cannot be used: no library"}}
	l.Devices = append(l.Devices,
		gpuEntry(device.GPU{Name: "NVIDIA H100", UUID: "GPU-1", Capability: "9.0", MemoryTotal: 80 << 30, MemoryUsed: 3 << 30, Utilization: .5, Temperature: 44, Power: 310.4, PowerLimit: 700, ECC: device.ECC{Enabled: true}}),
		gpuEntry(device.GPU{Index: 1, Ordinal: -1, Name: "Old", UUID: "GPU-2", Capability: "6.1", MemoryTotal: 8 << 30}),
		deviceEntry{Device: "cpu", Name: "CPU", Threads: 2, MemoryTotal: 16 << 30, MemoryUsed: 1 << 30})
	var b strings.Builder
	if err := writeDevices(&b, l); err != nil {
		t.Fatal(err)
	}
	const want = `DEVICE  NAME           MEMORY     USED  BUSY   TEMP         POWER  COMPUTE    ECC            UUID
cuda:0  NVIDIA H100  80.0 GiB  3.0 GiB  50 %  44 °C  310 of 700 W  9.0        0 uncorrected  GPU-1
hidden  Old           8.0 GiB      0 B   0 %      -             -  6.1        -              GPU-2
cpu     CPU          16.0 GiB  1.0 GiB     -      -             -  2 threads  -              -

driver 580.1, CUDA 13.0

GPUs cannot be used: no library
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
