// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The main function of every Boost.Test program. It stands in libsupport, so
// that the linker takes it for programs that have none of their own.

#define BOOST_TEST_MODULE qcow2bitmap
#include <boost/test/unit_test.hpp>
