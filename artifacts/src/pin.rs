//! Pins: named roots that the collector keeps whatever the policy says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::{Digest, Store, files, holder, run};

/// What a pin keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// One record and what it names.
    Key(Digest),
    /// A run and everything in it.
    Run(String),
}

/// A named root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// What is kept.
    pub root: Root,
    /// Why, for people.
    #[serde(default)]
    pub note: String,
    /// Until when (seconds since 1970); for good if there is none.
    #[serde(default)]
    pub expires: Option<u64>,
}

impl Pin {
    pub(crate) fn holds(&self, now: SystemTime) -> bool {
        self.expires
            .is_none_or(|until| UNIX_EPOCH + Duration::from_secs(until) > now)
    }
}

impl Store {
    /// Sets a pin, in the place of any other one of that name.
    ///
    /// # Errors
    /// [`Error::Name`] for a name that no file can have.
    pub fn pin(&self, name: &str, pin: &Pin) -> Result<()> {
        run::check_id(name)?;
        let staged = self.folder("tmp").join(format!("pin-{}", holder::unique()));
        let bytes = serde_json::to_vec(pin).at(&staged)?;
        files::write(&staged, &bytes, 0o644).at(&staged)?;
        let path = self.folder("pins").join(name);
        files::rename(&staged, &path).at(&path)
    }

    /// Removes a pin; `false` if there is none of that name.
    ///
    /// # Errors
    /// [`Error::Name`] for a name that no file can have.
    pub fn unpin(&self, name: &str) -> Result<bool> {
        run::check_id(name)?;
        let path = self.folder("pins").join(name);
        files::remove(&path).at(&path)
    }

    /// All pins, sorted by name.
    ///
    /// # Errors
    /// [`Error::Damaged`] if one cannot be read.
    pub fn pins(&self) -> Result<Vec<(String, Pin)>> {
        let folder = self.folder("pins");
        let mut pins = Vec::new();
        for name in files::names(&folder).at(&folder)? {
            let path = folder.join(&name);
            // One that went away since the listing was removed by somebody.
            let Some(bytes) = files::read(&path).at(&path)? else {
                continue;
            };
            let pin = serde_json::from_slice(&bytes);
            pins.push((
                name,
                pin.map_err(|error| Error::damaged(&path, error.to_string()))?,
            ));
        }
        Ok(pins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_set_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let key = Pin {
            root: Root::Key(Digest::of(b"k")),
            note: "paper".into(),
            expires: None,
        };
        let run = Pin {
            root: Root::Run("r1".into()),
            note: String::new(),
            expires: Some(5),
        };
        store.pin("table-2", &run).unwrap();
        store.pin("table-2", &key).unwrap();
        store.pin("a", &run).unwrap();
        assert_eq!(
            store.pins().unwrap(),
            [("a".into(), run.clone()), ("table-2".into(), key)]
        );
        assert!(store.unpin("table-2").unwrap() && !store.unpin("table-2").unwrap());
        assert!(matches!(store.pin("../x", &run), Err(Error::Name { .. })));
        let after = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(run.holds(after(4)) && !run.holds(after(5)));
        std::fs::write(store.folder("pins").join("b"), "{").unwrap();
        assert!(matches!(store.pins(), Err(Error::Damaged { .. })));
    }
}
