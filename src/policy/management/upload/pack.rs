use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

/// Makes chunks: gzipped JSON arrays of at most so many bytes.
///
/// How much goes into one is known only after it was compressed, so it learns from each how much to try for the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packer {
    limit: usize,
    budget: usize,
}

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) body: Bytes,
    pub(super) items: usize,
}

impl Packer {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, budget: limit }
    }

    /// How many bytes, uncompressed, are worth trying.
    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    /// A chunk of the first items, of as many as fit. `None` when the first alone does not.
    pub(super) fn pack(&mut self, items: &[Bytes]) -> Option<Chunk> {
        let mut rest = items;
        loop {
            let body = compress(rest).ok()?;
            let bytes = size(rest);
            if body.len() <= self.limit {
                // A small rest says nothing of the next full chunk.
                if bytes * 2 > self.budget {
                    self.budget = self.scaled(bytes, body.len()).clamp(self.limit, self.limit * MOST);
                }
                return Some(Chunk { body: body.into(), items: rest.len() });
            }
            if rest.len() == 1 {
                return None;
            }
            self.budget = self.scaled(bytes, body.len());
            let mut room = self.budget;
            let fewer = rest.iter().take_while(|item| take(&mut room, item.len() + 1)).count();
            rest = rest.get(..fewer.clamp(1, rest.len() - 1))?;
        }
    }

    /// What would fill nine tenths of a chunk, if this became so much.
    fn scaled(&self, bytes: usize, compressed: usize) -> usize {
        bytes.saturating_mul(self.limit) / compressed.max(1) * 9 / 10
    }
}

/// Whether a chunk of at most `limit` bytes has room for this one item.
pub(crate) fn fits(item: &Bytes, limit: usize) -> bool {
    // What does not compress at all grows by the frame: less than this for what is as small.
    const FRAME: usize = 64;
    item.len() + item.len() / 1024 + FRAME <= limit
        || compress(std::slice::from_ref(item)).is_ok_and(|body| body.len() <= limit)
}

fn compress(items: &[Bytes]) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    for (number, item) in items.iter().enumerate() {
        gzip.write_all(if number == 0 { b"[" } else { b"," })?;
        gzip.write_all(item)?;
    }
    gzip.write_all(b"]")?;
    gzip.finish()
}

fn size(items: &[Bytes]) -> usize {
    items.iter().map(|item| item.len() + 1).sum()
}

fn take(room: &mut usize, bytes: usize) -> bool {
    room.checked_sub(bytes).map(|left| *room = left).is_some()
}

/// How many times its compressed size a chunk is tried with at most: what is as good as empty is no reason to hold megabytes.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// What hardly compresses: a string of so many hexadecimal digits.
    fn noise(seed: u64, digits: usize) -> Bytes {
        let mut text = String::from('"');
        for block in 0_u64.. {
            if text.len() > digits {
                break;
            }
            for byte in Sha256::digest([seed.to_be_bytes(), block.to_be_bytes()].concat()) {
                text.push_str(&format!("{byte:02x}"));
            }
        }
        text.truncate(digits + 1);
        (text + "\"").into()
    }

    fn read(body: &[u8]) -> Vec<serde_json::Value> {
        let mut text = String::new();
        GzDecoder::new(body).read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// What a sender would do: chunk after chunk until nothing is left.
    fn pack_all(packer: &mut Packer, mut items: Vec<Bytes>) -> (Vec<usize>, usize) {
        let (mut chunks, mut dropped) = (Vec::new(), 0);
        while !items.is_empty() {
            let mut room = packer.budget();
            let tried = items.iter().take_while(|item| take(&mut room, item.len() + 1)).count().max(1);
            match packer.pack(&items[..tried]) {
                Some(chunk) => {
                    assert!(chunk.body.len() <= packer.limit);
                    let expected: Vec<serde_json::Value> =
                        items.drain(..chunk.items).map(|item| serde_json::from_slice(&item).unwrap()).collect();
                    assert_eq!(read(&chunk.body), expected);
                    chunks.push(chunk.items);
                }
                None => {
                    items.remove(0);
                    dropped += 1;
                }
            }
        }
        (chunks, dropped)
    }

    #[test]
    fn chunks_grow_to_what_compresses_to_the_limit_and_never_beyond() {
        let mut packer = Packer::new(4096);
        let items =
            (0..2_000).map(|n| Bytes::from(format!("{{\"n\":{n},\"path\":\"authz/decision\",\"result\":true}}")));
        let (chunks, dropped) = pack_all(&mut packer, items.collect());
        assert_eq!((chunks.iter().sum::<usize>(), dropped), (2_000, 0));
        let (first, last) = (chunks[0], chunks[chunks.len() - 2]);
        assert!(last > 3 * first, "{chunks:?}");
    }

    #[test]
    fn what_compresses_badly_after_what_compressed_well_still_fits() {
        let mut packer = Packer::new(4096);
        let even = (0..3_000).map(|_| Bytes::from_static(b"{\"path\":\"authz/decision\",\"result\":true}"));
        let mixed = even.chain((0..60).map(|n| noise(n, 700))).collect();
        let (chunks, dropped) = pack_all(&mut packer, mixed);
        assert_eq!((chunks.iter().sum::<usize>(), dropped), (3_060, 0));
        assert!(packer.budget() < 4 * 4096, "{}", packer.budget());
    }

    #[test]
    fn an_item_that_fits_into_no_chunk_is_told_and_stops_nothing() {
        let mut packer = Packer::new(4096);
        let items = vec![noise(1, 100), noise(2, 20_000), noise(3, 100), noise(4, 20_000)];
        assert_eq!(pack_all(&mut packer, items), (vec![1, 1], 2));
        let long = Bytes::from(format!("\"{}\"", "a".repeat(20_000)));
        for (item, expected) in [(noise(1, 100), true), (noise(2, 20_000), false), (long, true)] {
            assert_eq!(fits(&item, 4096), expected);
            assert_eq!(Packer::new(4096).pack(&[item]).is_some(), expected);
        }
    }

    #[test]
    fn what_fits_without_being_tried_does() {
        for digits in (3_900..4_100).step_by(7).chain([0, 1, 63, 64]) {
            let random: Bytes = (0..digits).map(|n| Sha256::digest([n as u8, (n >> 8) as u8])[0]).collect();
            assert_eq!(fits(&random, 4096), compress(std::slice::from_ref(&random)).unwrap().len() <= 4096, "{digits}");
        }
    }
}
