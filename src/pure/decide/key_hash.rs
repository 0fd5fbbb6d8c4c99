//! The hash of names and keys.
//!
//! It is frozen. So runs can be repeated, and partitions predicted, across builds, machines and
//! versions.

/// Returns the hash of a key, by which a partitioned topic chooses its partition.
///
/// The partition is `key_hash(key) % partitions`; see
/// [`TopicBuilder::partitions`](crate::TopicBuilder::partitions).
///
/// The hash is FNV-1a over the bytes of the key in UTF-8, finished by the mixer of splitmix64. The
/// mixer is needed because the low bits of FNV alone follow the low bits of the last bytes. Both
/// are 64 bits wide and quickly written in any language. The hash is frozen: a key has the same
/// hash in every version of this crate. It is no defense against keys that were chosen to collide.
///
/// ```
/// use millstream::key_hash;
///
/// assert_eq!(key_hash(""), 0xc381_7c01_6ba4_ff30);
/// assert_eq!(key_hash("a"), 0x5f29_c2aa_dd9b_8527);
/// assert_eq!(key_hash("foobar"), 0x5df2_9541_3403_de4f);
/// assert_eq!(key_hash("Zürich"), 0x99fc_e954_13b7_844d);
/// ```
pub fn key_hash(key: &str) -> u64 {
    mix(fnv1a(key.as_bytes()))
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv).
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of splitmix64, by which every input bit moves every output bit.
///
/// Its source is Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_names_is_frozen() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn keys_that_differ_in_their_last_byte_only_spread_over_few_partitions() {
        for partitions in [2, 3, 4, 7, 8, 16] {
            let mut counts = vec![0_u32; partitions as usize];
            for number in 0..1_000_u32 * partitions {
                let key = format!("device-{number:08}");
                counts[(key_hash(&key) % u64::from(partitions)) as usize] += 1;
            }
            let even = counts.iter().all(|count| (850..1_150).contains(count));
            assert!(even, "{partitions} partitions: {counts:?}");
        }
    }
}
