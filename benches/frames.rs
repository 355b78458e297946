//! Splits the bytes of a connection to the agent into frames, by their length alone (SPOE.txt 3.2).

use std::io::Read;

/// Keeps what is left of the last.
#[derive(Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Reads so many whole frames.
    pub fn read(&mut self, stream: &mut impl Read, wanted: usize, mut each: impl FnMut(&[u8])) {
        let mut chunk = [0; 16384];
        let mut found = 0;
        loop {
            let mut at = 0;
            while found < wanted
                && let Some(length) = self.buffer.get(at..at + 4)
            {
                let end = at + 4 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
                let Some(frame) = self.buffer.get(at..end) else { break };
                each(frame);
                found += 1;
                at = end;
            }
            self.buffer.drain(..at);
            if found == wanted {
                return;
            }
            let n = stream.read(&mut chunk).unwrap();
            assert_ne!(n, 0, "the agent closed");
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }
}
