package power

import "time"

func init() { retryDelay = time.Millisecond }
