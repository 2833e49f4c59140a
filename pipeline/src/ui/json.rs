//! Events as JSON lines, for programs (`--json`).

use crate::event::{Event, Observer, line};
use std::io::{self, Write};

/// Writes every event as one line and hands it on at once. When the reader goes away, nothing more is
/// written, and that is no error: what is running is still worth its result.
pub struct Json<W> {
    out: W,
    ended: Option<io::Error>,
}

impl<W: Write> Json<W> {
    /// Lines into `out`, which is the standard output.
    pub fn new(out: W) -> Self {
        Self { out, ended: None }
    }

    fn write(&mut self, event: &Event, at: f64) -> io::Result<()> {
        self.out.write_all(line(event, at)?.as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write + Send> Observer for Json<W> {
    fn see(&mut self, event: &Event, at: f64) {
        if self.ended.is_none() {
            self.ended = self.write(event, at).err();
        }
    }

    fn close(&mut self) -> anyhow::Result<()> {
        match self.ended.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::from(error).context("cannot write to the standard output"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pipe {
        room: usize,
        error: io::ErrorKind,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.room = self.room.checked_sub(1).ok_or(self.error)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error_but_a_full_disk_is() {
        let close = |error| {
            let mut json = Json::new(Pipe { room: 1, error });
            for _ in 0..3 {
                json.see(
                    &Event::Note {
                        step: None,
                        text: String::new(),
                    },
                    0.0,
                );
            }
            json.close()
        };
        assert!(close(io::ErrorKind::BrokenPipe).is_ok());
        assert!(close(io::ErrorKind::StorageFull).is_err());
    }
}
