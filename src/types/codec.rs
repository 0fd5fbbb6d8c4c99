//! Payloads as bytes.

use std::error::Error;

/// The error of a codec, whatever it is.
pub type CodecError = Box<dyn Error + Send + Sync>;

/// Turns payloads into the bytes that are stored, and back.
///
/// A topic's codec must read what it wrote in earlier runs of the program.
///
/// ```
/// use millstream::store::{Codec, CodecError};
///
/// /// Stores a price in cents.
/// struct Cents;
///
/// impl Codec<u64> for Cents {
///     fn encode(&self, cents: &u64, into: &mut Vec<u8>) -> Result<(), CodecError> {
///         into.extend_from_slice(&cents.to_le_bytes());
///         Ok(())
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<u64, CodecError> {
///         Ok(u64::from_le_bytes(bytes.try_into()?))
///     }
/// }
/// ```
pub trait Codec<T>: Send + Sync + 'static {
    /// Appends the bytes of a payload.
    ///
    /// # Errors
    ///
    /// Any error refuses the publish, which hands the payload back.
    fn encode(&self, payload: &T, into: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Makes a payload of its bytes.
    ///
    /// # Errors
    ///
    /// Any error means that the bytes are none of this codec's.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// Stores bytes and text as they are: `Vec<u8>`, `Box<[u8]>` and `String`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw;

impl Codec<Vec<u8>> for Raw {
    fn encode(&self, payload: &Vec<u8>, into: &mut Vec<u8>) -> Result<(), CodecError> {
        into.extend_from_slice(payload);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

impl Codec<Box<[u8]>> for Raw {
    fn encode(&self, payload: &Box<[u8]>, into: &mut Vec<u8>) -> Result<(), CodecError> {
        into.extend_from_slice(payload);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Box<[u8]>, CodecError> {
        Ok(bytes.into())
    }
}

impl Codec<String> for Raw {
    fn encode(&self, payload: &String, into: &mut Vec<u8>) -> Result<(), CodecError> {
        into.extend_from_slice(payload.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Ok(std::str::from_utf8(bytes)?.to_owned())
    }
}

/// Stores payloads as JSON (feature `json`).
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json;

#[cfg(feature = "json")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Json {
    fn encode(&self, payload: &T, into: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(into, payload)?)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// Stores payloads in the format of postcard, which is compact (feature `postcard`).
#[cfg(feature = "postcard")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Postcard;

#[cfg(feature = "postcard")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Postcard {
    fn encode(&self, payload: &T, into: &mut Vec<u8>) -> Result<(), CodecError> {
        postcard::to_io(payload, into)?;
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}
