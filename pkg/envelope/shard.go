package envelope

// MaxShards bounds the number of shards: a job id spends 12 bits on its shard.
const MaxShards = 1 << 12

// Shard is the shard that owns everything of a source: Kafka's default
// partitioner, so that any producer in any language that keys by source finds
// the same partition. shards must be 1 to MaxShards; the result is in
// [0, shards).
func Shard(source string, shards int) int {
	return int(murmur2(source)&0x7fffffff) % shards
}

// murmur2 is Kafka's variant (org.apache.kafka.common.utils.Utils.murmur2):
// 32-bit, little-endian, with Kafka's own seed. Its golden vectors come from
// Kafka's UtilsTest.
func murmur2(data string) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(data))
	for len(data) >= 4 {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
		data = data[4:]
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
