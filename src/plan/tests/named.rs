//! Cases that have a name, with the texts they give.

use super::*;
